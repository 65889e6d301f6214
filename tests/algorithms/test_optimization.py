"""Learning rates of a gradient step, and what ranks exchange in it."""

import pytest
import torch
import torch.distributed as dist

from edp_lightning.algorithms.optimization import apply_gradients, learning_rate, mean_over_ranks
from edp_lightning.errors import UserError


def test_learning_rate_schedules():
    assert learning_rate(0.1, "constant", 500, -1) == 0.1
    assert learning_rate(0.1, "cosine", 0, 100) == pytest.approx(0.1)
    assert learning_rate(0.1, "cosine", 50, 100) == pytest.approx(0.05)
    assert learning_rate(0.1, "cosine", 100, 100) == pytest.approx(0, abs=1e-9)
    assert [learning_rate(0.1, "cooldown", step, 100) for step in (0, 79, 80)] == pytest.approx([0.1] * 3)
    assert learning_rate(0.1, "cooldown", 95, 100) == pytest.approx(0.025)
    assert learning_rate(0.1, "cooldown", 100, 100) == 0
    for schedule in ("cosine", "cooldown"):
        with pytest.raises(UserError, match=f"a {schedule} .*max_steps"):
            learning_rate(0.1, schedule, 0, -1)


class TwoRanks:
    """Stands for another rank whose tensors are all 3, and counts what is asked of it."""

    def __init__(self, monkeypatch, backend):
        self.reduced, self.backend = [], backend
        monkeypatch.setattr("edp_lightning.algorithms.optimization.is_distributed", lambda: True)
        monkeypatch.setattr(dist, "get_backend", lambda: backend)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(dist, "all_reduce", self.all_reduce)
        monkeypatch.setattr(dist, "barrier", None)  # the host would wait for the device in each step

    def all_reduce(self, tensor, op=dist.ReduceOp.SUM):
        assert op == (dist.ReduceOp.AVG if self.backend == "nccl" else dist.ReduceOp.SUM)
        self.reduced.append(tensor.data_ptr())
        tensor.add_(3.0)
        if self.backend == "nccl":
            tensor.div_(2)


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_gradients_are_averaged_in_one_flat_tensor_that_stays(monkeypatch, backend):
    ranks = TwoRanks(monkeypatch, backend)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for step in range(3):
        given = [torch.full_like(p, step + 1.0) for p in network.parameters()]
        if step == 2:  # written by a pass into the memory of the last ones
            given = [p.grad.fill_(step + 1.0) for p in network.parameters()]
        norms = apply_gradients(optimizer, network, given, None)
        assert all((p.grad == (step + 4) / 2).all() for p in network.parameters())
        assert norms.joint.item() == pytest.approx((step + 4) / 2 * sum(p.numel() for p in network.parameters()) ** 0.5)
    assert len(ranks.reduced) == 3 and len(set(ranks.reduced)) == 1


def test_means_over_ranks_leave_the_tensor_alone(monkeypatch):
    value = torch.ones(2, requires_grad=True)
    assert mean_over_ranks(value) is value
    TwoRanks(monkeypatch, "gloo")
    assert mean_over_ranks(value).tolist() == [2, 2]
    assert value.tolist() == [1, 1]
