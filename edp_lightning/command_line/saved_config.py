"""The file config.yaml in a run's folder."""

from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from edp_lightning.runs.loggers import remember_identities
from edp_lightning.runs.options import changed_options, learning_options
from edp_lightning.runs.run_folder import folder_of_checkpoint


class SaveFitConfig(SaveConfigCallback):
    """Writes config.yaml beside the checkpoints of ``fit``; testing a run does not overwrite its config."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save nothing yet: the checkpoint may be refused, and its run keeps its config."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what differs from the run that goes on; save."""
        if trainer.ckpt_path is not None and trainer.is_global_zero:
            self._tell_changes(folder_of_checkpoint(trainer.ckpt_path) / self.config_filename)
        super().setup(trainer, pl_module, "fit")

    def _tell_changes(self, earlier: Path) -> None:
        """Say which options of sections that change what is learned are not those of the earlier config."""
        try:
            before = yaml.safe_load(earlier.read_text())
        except (OSError, yaml.YAMLError):
            return
        now = self.config.as_dict()
        pairs = [(section, options, now.get(section) or {}) for section, options in learning_options(before).items()]
        changed = [change for pair in pairs for change in changed_options(*pair)]
        if changed:
            rank_zero_info(f"going on with other options than those of the run (in brackets): {', '.join(changed)}")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save into the run's folder, whatever folder the logger has."""
        folder = Path(trainer.default_root_dir)
        self.parser.save(self.config, folder / self.config_filename, skip_none=False, overwrite=True)
        remember_identities(trainer.loggers, folder)
