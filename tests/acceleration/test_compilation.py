"""A machine without a compiler trains all the same."""

import pytest
import torch
import torch.distributed as dist

from edp_lightning.acceleration.compilation import compile_or_eager


def no_backend(function, **kwargs):
    def call(*args):
        raise RuntimeError("No working C++ compiler found")

    return call


def test_without_a_compiler_the_function_runs_eagerly_after_one_warning(monkeypatch):
    monkeypatch.setattr(torch, "compile", no_backend)
    double = compile_or_eager(lambda x: 2 * x)
    with pytest.warns(UserWarning, match=r"No working C\+\+ compiler.*model.compile false"):
        assert double(torch.tensor(3.0)) == 6
    assert double(torch.tensor(4.0)) == 8  # and silently from now on: warnings are errors here


def test_an_error_of_the_function_itself_is_not_hidden(monkeypatch):
    monkeypatch.setattr(torch, "compile", no_backend)
    broken = compile_or_eager(lambda x: x.no_such_method())
    with pytest.raises(AttributeError, match="no_such_method"):
        broken(torch.zeros(1))


def test_a_later_call_may_be_the_one_that_fails(monkeypatch):
    """Arguments of another kind are compiled for themselves."""

    def second_fails(function, **kwargs):
        seen = set()

        def call(x):
            if seen and x.shape not in seen:
                raise RuntimeError("out of registers")
            seen.add(x.shape)
            return function(x)

        return call

    monkeypatch.setattr(torch, "compile", second_fails)
    double = compile_or_eager(lambda x: 2 * x)
    assert double(torch.tensor(3.0)) == 6
    with pytest.warns(UserWarning, match="out of registers"):
        assert double(torch.ones(2)).tolist() == [2, 2]
    assert double(torch.ones(3)).tolist() == [2, 2, 2]


def test_graphs_are_not_split_at_the_buckets_of_ddp(monkeypatch):
    """This package averages gradients itself."""
    config = torch._dynamo.config
    with config.patch(optimize_ddp=True), monkeypatch.context() as patch:
        compile_or_eager(lambda x: x)
        assert config.optimize_ddp
        patch.setattr(dist, "is_initialized", lambda: True)
        compile_or_eager(lambda x: x)
        assert not config.optimize_ddp
