"""Data sets: known ones by name, others from files of rows, of images or of texts."""

from desc_ext.data.catalogue import KNOWN, KnownDataset, data_folders, find_folder
from desc_ext.data.dataset import DataError, Dataset
from desc_ext.data.loading import load_dataset
from desc_ext.data.text import Documents, read_documents

__all__ = [
    "KNOWN",
    "DataError",
    "Dataset",
    "Documents",
    "KnownDataset",
    "data_folders",
    "find_folder",
    "load_dataset",
    "read_documents",
]
