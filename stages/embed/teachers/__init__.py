"""The frozen networks whose features are stored.

A new one is a module here without torch: its section of the params, which is a `Teacher`, with the
network in a module beside it, and a place in `TeacherConfig`.
"""

from stages.embed.teachers.sam import SamTeacher

TeacherConfig = SamTeacher
"""Section `embed.teacher`; with a second kind `Annotated[A | B, Field(discriminator="kind")]`."""
