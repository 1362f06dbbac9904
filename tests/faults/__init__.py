"""Faults of stage one, injected for real: in a quick form and, marked slow, in a thorough one.

Each test states its fault; those of other folders that inject one for real are not repeated here.
What was done is counted and printed below the results: `pytest tests/faults -m "slow or not slow"`.

SIGKILL at random moments: `test_kill` (3; slow 30). Before every change of the disk:
    `tests/store/test_kill`. During `dvc repro`: `tests/pipeline/test_kill`. Parts of a store:
    `tests/store/test_lease`.
A second writer: `test_second_writer` (other processes; stopped, killed, all at once).
    In a bucket: `tests/store/test_lease`. The command: `tests/pipeline/test_bad_stores`.
A full disk: `test_full_disk` (3 sizes; slow after every page; inodes; a limit on the size of
    files; the commands). One shard of a store: `tests/store/test_write`.
A read-only folder: `test_read_only` (a read-only disk; permissions; the commands).
    A file in its place: `tests/store/test_write`, `tests/pipeline/test_bad_stores`.
A flipped bit: `test_flipped_bits` (6; slow 40), with features of a teacher. Of all codecs,
    compressed: `tests/store/test_verify` (8; slow 40). `ssr verify --repair`:
    `tests/pipeline/test_verify`. Seen by a reader: `tests/store/test_read`.
A truncated, empty or missing shard: `test_lost_files`, `tests/store/test_verify`,
    `tests/pipeline/test_verify`; under `dvc repro`: `tests/pipeline/test_dvc`.
A ledger that is lost or half-written: `test_lost_files`. At every seventh byte:
    `tests/store/test_ledger`. Metadata: `tests/store/test_write`.
Times of files: `test_times` (touched, from 1970 and 2100; images, folders and weights replaced by
    others of the same size and time).
An image that is changed or removed after embedding: `test_times` and `tests/embed/test_stage`.
    Without `ssr prepare`: `tests/embed/test_stage`, `tests/pipeline/test_bad_data`.
NaN, Inf and numbers that are too large: `test_bad_features` (the teacher's weights make them).
    Of a single number: `tests/store/test_write`.
Odd and bad images: `test_odd_images`. What is left out stays out: `tests/embed/test_bad_images`.
A killed worker of dask, a driver that ended: `tests/embed/test_ways`.
Many images: `test_many_images` (150; slow 10,000).
"""
