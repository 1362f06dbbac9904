"""What `ssr train` measures on the side: the student, and whether the branch reads its teacher."""

from pathlib import Path

from pipeline.params import Params
from stages.prepare.manifest import Manifest
from stages.train.validate import validation_of
from stages.train.validation import Validation
from stages.train.wrong_teacher import WrongTeacherTest, wrong_teacher_test
from store.errors import StoreError
from store.index import Index


def watched_validation(
    params: Params, manifest: Manifest, index_path: Path
) -> tuple[Validation | None, str | None]:
    """Choose what is measured every `train.validate_every` steps.

    Returns:
        The measurement, None where no image has a label; and why the wrong-teacher test is no part
        of it, None where it is or where no branch reads a teacher.
    """
    test, without = None, None
    if params.train.regularizer.on:
        try:
            test = _wrong_teacher_test(params, manifest, index_path)
        except StoreError as error:
            missing = (
                "add val to embed.splits and run `ssr embed`"
                if "val" not in params.embed.splits
                else str(error)
            )
            without = f"no wrong-teacher test (does the branch read its teacher?): {missing}"
    return validation_of(manifest, params.prepare.roots, test), without


def _wrong_teacher_test(params: Params, manifest: Manifest, index_path: Path) -> WrongTeacherTest:
    return wrong_teacher_test(
        manifest,
        params.prepare.roots,
        index=Index.read(index_path),
        store_url=params.store.location,
        levels=params.train.regularizer.used_levels,
    )
