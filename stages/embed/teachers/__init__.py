"""The frozen networks whose features are stored.

A new one is a module here without torch: its section of the params, which is a `Teacher`, with the
network in a module beside it, and a place in `TeacherConfig`.
"""

from typing import Annotated

from pydantic import Field

from stages.embed.teachers.efficientnet_lite import EfficientNetLiteTeacher
from stages.embed.teachers.hf import HfTeacher
from stages.embed.teachers.sam import SamTeacher

TeacherConfig = Annotated[
    SamTeacher | EfficientNetLiteTeacher | HfTeacher, Field(discriminator="kind")
]
"""Section `embed.teacher`."""
