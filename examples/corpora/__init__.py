"""What the examples share: data sets downloaded once and checked; readers that name what is bad by file and line."""

from corpora.files import folder, read_bytes, read_text, recordings
from corpora.pictures import FASHION_CLASSES, Pictures, picture, pictures
from corpora.scores import Score
from corpora.tables import Row, Vocabulary, aligned, subwords, tables

__all__ = [
    "FASHION_CLASSES",
    "Pictures",
    "Row",
    "Score",
    "Vocabulary",
    "aligned",
    "folder",
    "picture",
    "pictures",
    "read_bytes",
    "read_text",
    "recordings",
    "subwords",
    "tables",
]
