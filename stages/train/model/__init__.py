"""The networks: student (backbone and head), regulariser, and their official weights."""
