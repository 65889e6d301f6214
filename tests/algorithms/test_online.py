"""Every algorithm goes on online, or says why it cannot."""

import lightning as L
import pytest
import torch

from edp_lightning.algorithms.registry import built_in
from edp_lightning.callbacks import OnlineTraining
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from tests.algorithms.tiny import tiny_options

ALGORITHMS = built_in()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_goes_on_online_or_says_why_not(name, toy_set, tmp_path):
    def fit(folder, steps, *callbacks, ckpt_path=None):
        trainer = L.Trainer(
            accelerator="cpu", devices=1, max_steps=steps, callbacks=list(callbacks), logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path / folder,
        )  # fmt: skip
        module = ALGORITHMS[name](**tiny_options(name))
        trainer.fit(module, datamodule=OfflineDataModule(toy_set, batch_size=8, steps_per_epoch=5), ckpt_path=ckpt_path)
        return trainer, module

    trainer, module = fit("offline", 5)
    trainer.save_checkpoint(tmp_path / "offline.ckpt")
    online = OnlineTraining(env_steps=20, first_env_steps=10, num_envs=2, actions="act", action_noise=0.1)
    if module.discount is None:
        with pytest.raises(UserError, match=f"{name} cannot learn online"):
            fit("online", 5, online, ckpt_path=tmp_path / "offline.ckpt")
        return
    trainer, module = fit("online", 5, online, ckpt_path=tmp_path / "offline.ckpt")
    assert trainer.global_step == 15
    assert all(value.isfinite().all() for value in module.state_dict().values())
    saved = torch.load(tmp_path / "online" / "checkpoints" / "last.ckpt", weights_only=True)  # where the online phase began
    assert saved["global_step"] == 5
