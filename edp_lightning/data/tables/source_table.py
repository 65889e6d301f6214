"""The table of a dataset, out of the cache where it may be kept."""

from edp_lightning.data.sources.source import Source
from edp_lightning.data.tables.build import build_table
from edp_lightning.data.tables.cache import cached_table, table_in_memory, table_key
from edp_lightning.data.tables.facts import TableFacts
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.row_sinks import RowSink
from edp_lightning.data.tables.selection import best_episodes
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.environments.families import ObservationView
from edp_lightning.runs.cache_folder import cache_folder


def table_of(
    source: Source, view: ObservationView, recipe: TableRecipe, keep_time_limits: bool, cache: bool, share: float = 1
) -> tuple[TransitionTable, TableFacts]:
    """Return the table of a source and what it holds.

    Args:
        source: The set; arrays in memory have no files that a cached table could be known by.
        view: How observations are read.
        recipe: What becomes of the episodes.
        keep_time_limits: How D4RL files are read.
        cache: Whether the table may be kept for other runs.
        share: Share of the episodes that are used, the best ones.
    """

    def build(sink: RowSink) -> TableFacts:
        return build_table(best_episodes(lambda: source.episodes(view), recipe, share), recipe, sink)

    if not cache or not source.files:
        return table_in_memory(build)
    folder = cache_folder()
    reading = (type(source).__name__, view, keep_time_limits, *([] if share == 1 else [share]))
    reading += (source.labels,) if source.labels else ()
    return cached_table(table_key(source.files, reading, recipe, folder), build, folder)
