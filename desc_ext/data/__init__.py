"""Data sets: known ones by name, others from files of rows, of images or of texts."""

from desc_ext.data.catalogue import KNOWN, KnownDataset, data_folders, find_folder
from desc_ext.data.dataset import Dataset
from desc_ext.data.loading import load_dataset, read_documents
from desc_ext.data.messages import DataError, DataNote
from desc_ext.data.preparation import Preparation
from desc_ext.data.stored import stored_rows
from desc_ext.data.text import Documents
from desc_ext.stored import StoredRows

__all__ = [
    "KNOWN",
    "DataError",
    "DataNote",
    "Dataset",
    "Documents",
    "KnownDataset",
    "Preparation",
    "StoredRows",
    "data_folders",
    "find_folder",
    "load_dataset",
    "read_documents",
    "stored_rows",
]
