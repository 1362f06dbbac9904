"""Folders and runs of the experiment: worlds, trainings, images of the exams."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from benchmarks.miniature.arms import ALL_ARMS, ARMS, FROM_NOTHING, WARM, World, folder_of
from benchmarks.runs import ON_ONE_THREAD, Run, overrides_of
from examples.drawn import TEACHER
from pipeline.params import Params, load_params

Exam = Literal["val", "test"]

TARGETS: Final = ("dusk", "fog", "night")
"""What students are scored on; dusk is what they adapt to, the others nobody has seen."""
IMAGES: Final = 400
"""Images of each domain to train on."""
EXAM_IMAGES: Final = 60
"""Images of each target to score on: the same scenes for all of them."""
LAST_DIGIT: Final = {"source": 1, "target": 2, "val": 3, "test": 4}
"""Last digit of a world's seed."""

_WITHOUT_TEACHER: Final = ("embed.domains=[]", "train.regularizer.on=[]")


class Place(NamedTuple):
    """Folder of the experiment.

    Attributes:
        out: The folder.
        exam: `val` while anything is chosen; `test` when all is.
        overrides: Further values of parameters, for all runs.
    """

    out: Path
    exam: Exam
    overrides: Sequence[str] = ()

    @property
    def vit(self) -> Path:
        """The teacher as a folder of Hugging Face's."""
        return self.out / "vit"

    def folder(self, name: str, seed: int) -> Path:
        """Name the folder of an arm's training."""
        return self._runs(seed) / folder_of(name)

    def world(self, seed: int, world: World) -> tuple[Params, Path]:
        """Say what images and features a world has, and the folder of its manifest and index."""
        return self.params(seed, world), self.out / "worlds" / str(seed) / world

    def warm(self, seed: int, iterations: int) -> Run:
        """Describe the source-only training that all arms of a seed start from."""
        values = (*_steps(seed, iterations, None), *overrides_of("source-only"))
        _, data = self.world(seed, "drawn")
        return Run(
            WARM,
            seed,
            self.params(seed, "drawn", *values),
            self._runs(seed) / folder_of(WARM),
            data,
            exam=self.exam,
        )

    def run(self, name: str, seed: int, iterations: int) -> Run:
        """Describe the training of an arm."""
        start = str(self._runs(seed) / folder_of(WARM) / "student")
        return self._run(name, seed, iterations, None if name in FROM_NOTHING else start)

    def timed(self, name: str, seed: int, iterations: int, folder: Path) -> Run:
        """Describe steps of an arm from random weights."""
        return self._run(name, seed, iterations, None)._replace(folder=folder)

    def _run(self, name: str, seed: int, iterations: int, start: str | None) -> Run:
        arm = ALL_ARMS[name]
        values = (*_steps(seed, iterations, start), "train.self_training.start=0")
        values += (*overrides_of(arm.recipe), *arm.changes)
        if arm.world == "enlarged":
            values += (f"train.student.weights={self.vit}",)
        params, (_, data) = self.params(seed, arm.world, *values), self.world(seed, arm.world)
        if params.restyle is not None or params.wanted_label is not None:
            data = data.with_name(folder_of(name))
        return Run(
            name,
            seed,
            params,
            self.folder(name, seed),
            data,
            arm.feed,
            self.exam,
        )

    def params(self, seed: int, world: World, *values: str) -> Params:
        """Return the preset's parameters for a world and an exam."""
        target = _drawn("dusk", 10 * seed + LAST_DIGIT["target"], train=IMAGES, val=1)
        source = _drawn("day", 10 * seed + LAST_DIGIT["source"], train=IMAGES, val=1)
        exams = {
            style: _drawn(style, 10 * seed + LAST_DIGIT[self.exam], train=1, val=EXAM_IMAGES)
            for style in TARGETS
        }
        where: dict[str, object] = {"root": str(self.out / "drawn")}
        if world == "enlarged":
            where["fit_px"] = [512, 256]
        datasets = {style: {**exam, **where} for style, exam in exams.items()}
        source = target if world == "oracle" else source
        given = (
            *ON_ONE_THREAD,
            f"prepare.source={json.dumps({**source, **where})}",
            f"prepare.target={json.dumps({**target, **where})}",
            f"store.url={json.dumps(str(self.out / 'worlds' / str(seed) / 'features'))}",
            f"store.codec={'int8' if world == 'int8' else 'float16'}",
            f"embed.teacher.weights={'random' if world == 'untrained' else TEACHER}",
            "embed.splits=[train]",
            *(_WITHOUT_TEACHER if world in {"oracle", "enlarged"} else ()),
            "evaluate.domain=null",
            f"evaluate.datasets={json.dumps(datasets)}",
            *self.overrides,
        )
        return load_params(self.out / "params.yaml", (*given, *values))

    def choices(self) -> object:
        """Return all values of parameters and arms, wherever the folders and whatever the exam."""
        params = self._replace(exam="val").run("SSR", 0, 1).params.model_dump_json()
        params = params.replace(str(TEACHER), "drawn")
        arms = {name: (arm, overrides_of(arm.recipe)) for name, arm in ARMS.items()}
        return json.loads(params.replace(str(self.out), "")), arms

    def _runs(self, seed: int) -> Path:
        return self.out / "runs" / str(seed)


def _steps(seed: int, iterations: int, start: str | None) -> tuple[str, ...]:
    return (
        f"train.seed={seed}",
        f"train.iterations={iterations}",
        f"train.init={json.dumps(start)}",
    )


def _drawn(style: str, seed: int, *, train: int, val: int) -> dict[str, object]:
    return {
        "kind": "drawn",
        "style": style,
        "strength": 1.0,
        "seed": seed,
        "width_px": 256,
        "height_px": 128,
        "fit_px": None,
        "train": train,
        "val": val,
    }
