"""A machine without a compiler trains all the same."""

import pytest
import torch

from edp_lightning.acceleration.compilation import compile_or_eager

CPU = torch.device("cpu")


def no_backend(function, **kwargs):
    def call(*args):
        raise RuntimeError("No working C++ compiler found")

    return call


def test_without_a_compiler_the_function_runs_eagerly_after_one_warning(monkeypatch):
    monkeypatch.setattr(torch, "compile", no_backend)
    double = compile_or_eager(lambda x: 2 * x, CPU)
    with pytest.warns(UserWarning, match=r"No working C\+\+ compiler.*model.compile false"):
        assert double(torch.tensor(3.0)) == 6
    assert double(torch.tensor(4.0)) == 8  # and silently from now on: warnings are errors here


def test_an_error_of_the_function_itself_is_not_hidden(monkeypatch):
    monkeypatch.setattr(torch, "compile", no_backend)
    broken = compile_or_eager(lambda x: x.no_such_method(), CPU)
    with pytest.raises(AttributeError, match="no_such_method"):
        broken(torch.zeros(1))
