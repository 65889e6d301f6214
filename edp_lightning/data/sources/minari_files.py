"""The three file formats of Minari, read as nested mappings of arrays: HDF5, Arrow, Parquet."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from edp_lightning.data.sources.stored import episode_numbers
from edp_lightning.errors import UserError

FORMATS = ("hdf5", "arrow", "parquet")


def data_files(path: Path, data_format: str) -> tuple[Path, ...]:
    """Return the files that hold the episodes of a set."""
    if data_format == "hdf5":
        return (path / "main_data.hdf5",)
    return tuple(sorted(path.glob(f"*/*.{data_format}")))


def raw_episodes(where: str, path: Path, data_format: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each episode and what is stored of it, in the order of the numbers.

    Leaves are arrays or h5py datasets; branches are dicts or h5py groups.

    Args:
        where: Name of the set, for messages.
        path: Its data folder.
        data_format: One of ``FORMATS``.

    Raises:
        OSError: If a file is truncated or of another format.
        UserError: If a file or a package is missing.
    """
    if data_format == "hdf5":
        with h5py.File(path / "main_data.hdf5", "r") as file:
            _bound_metadata_cache(file)
            for number in episode_numbers(file, where):
                yield number, file[f"episode_{number}"]
        return
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(f"{where} is stored as {data_format}, which needs: pip install 'minari[arrow]'") from error
    for folder in sorted((f for f in path.iterdir() if f.is_dir() and f.name.isdigit()), key=lambda f: int(f.name)):
        yield int(folder.name), _columns(f"{where}, episode {folder.name}", folder, data_format)


def _bound_metadata_cache(file: h5py.File) -> None:
    """Keep HDF5 from remembering the layout of every episode ever read: 120 MB for a million steps."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.min_size = config.initial_size = 1 << 19
    config.max_size = 1 << 20
    file.id.set_mdc_config(config)


def _columns(where: str, folder: Path, data_format: str) -> dict[str, Any]:
    """Return the columns of one episode; Minari pads all but the observations by one row, which is cut off again."""
    import pyarrow as pa
    import pyarrow.dataset

    files = sorted(str(file) for file in folder.glob(f"*.{data_format}"))
    if not files:
        raise UserError(f"{where}: no .{data_format} file in {folder}; fetch the set again")
    try:
        table = pyarrow.dataset.dataset(files, format=data_format).to_table()
    except pa.ArrowInvalid as error:
        raise OSError(str(error)) from error
    columns = {name: _decode(table.column(name).combine_chunks()) for name in table.column_names if name != "infos"}
    return {name: value if name == "observations" else value[:-1] for name, value in columns.items()}


def _decode(values: Any) -> Any:
    """Return an Arrow array as numpy: structs as dicts, lists of one length as further axes."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_struct(values.type):
        return {field.name: _decode(values.field(field.name)) for field in values.type}
    if pa.types.is_fixed_size_list(values.type):
        inner = np.asarray(_decode(values.flatten()))
        return inner.reshape(len(values), values.type.list_size, *inner.shape[1:])
    return np.asarray(values.to_numpy(zero_copy_only=False))
