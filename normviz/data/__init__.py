"""Data sets that need no download, readers for those that do, and batches that are the same for every arm."""

from normviz.data.corpora import load_corpus
from normviz.data.digit_sources import load_digit_source
from normviz.data.digits import load_digits
from normviz.data.mnist1d import MNIST1D_TEMPLATES, load_mnist1d
from normviz.data.mnist_sample import load_mnist_sample
from normviz.data.own_images import load_own_images
from normviz.data.own_rows import load_rows
from normviz.data.own_table import load_own_table
from normviz.data.sampling import (
    Batches,
    BatchSource,
    IndexSampler,
    TensorBatches,
    by_seed,
    chunks,
    seeded_generator,
)
from normviz.data.sentences import SentenceCorpus, load_sentences
from normviz.data.supervised import SupervisedData, stratified_split
from normviz.data.tabular import TABLES, load_table
from normviz.data.text import TextBatches, TextCorpus, TextWindows, pydoc_topics
from normviz.data.upload import (
    BinaryTextError,
    EmptyTextError,
    TextEncodingError,
    TextTooLargeError,
    TextTooShortError,
    TextUploadError,
    load_text,
)
from normviz.data.vision import load_cifar10, load_mnist

__all__ = [
    "MNIST1D_TEMPLATES",
    "TABLES",
    "BatchSource",
    "Batches",
    "BinaryTextError",
    "EmptyTextError",
    "IndexSampler",
    "SentenceCorpus",
    "SupervisedData",
    "TensorBatches",
    "TextBatches",
    "TextCorpus",
    "TextEncodingError",
    "TextTooLargeError",
    "TextTooShortError",
    "TextUploadError",
    "TextWindows",
    "by_seed",
    "chunks",
    "load_cifar10",
    "load_corpus",
    "load_digit_source",
    "load_digits",
    "load_mnist",
    "load_mnist1d",
    "load_mnist_sample",
    "load_own_images",
    "load_own_table",
    "load_rows",
    "load_sentences",
    "load_table",
    "load_text",
    "pydoc_topics",
    "seeded_generator",
    "stratified_split",
]
