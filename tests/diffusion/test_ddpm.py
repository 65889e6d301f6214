"""Denoising diffusion against closed forms worked out here."""

import numpy as np
import pytest
import torch

from edp_lightning.diffusion import DDPM, MeanRevertingSDE


def betas(kind, steps):
    if kind == "vp":
        t = np.arange(1, steps + 1)
        return 1 - np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * t - 1) / steps**2)
    return np.linspace(0.1 / steps, 20 / steps, steps)


@pytest.mark.parametrize(("kind", "steps"), [("vp", 5), ("linear", 100)])
def test_tables_are_the_closed_forms(kind, steps):
    process, beta = DDPM(steps, kind), betas(kind, steps)
    kept = np.cumprod(1 - beta)
    before = np.concatenate([[1.0], kept[:-1]])
    expected = {
        "decay": np.sqrt(kept),
        "std": np.sqrt(1 - kept),
        "posterior_noisy_coef": (1 - before) * np.sqrt(1 - beta) / (1 - kept),
        "posterior_clean_coef": beta * np.sqrt(before) / (1 - kept),
        "reverse_variance": beta * (1 - before) / (1 - kept),
    }
    for name, table in expected.items():
        np.testing.assert_allclose(getattr(process, name)[1:].numpy(), table, rtol=2e-6, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(DDPM(steps, kind, "beta").reverse_variance[1:].numpy(), beta, rtol=1e-6)


def test_the_vp_schedule_of_five_steps_has_the_published_numbers():
    process = DDPM(5, "vp", "beta")
    assert process.reverse_variance[1:].tolist() == pytest.approx([0.1959, 0.4588, 0.6358, 0.7549, 0.8350], abs=1e-4)
    assert float(process.decay[-1]) ** 2 == pytest.approx(0.00641, abs=1e-5)


def test_forward_and_exact_reverse_meet():
    """With the clean action known, q(a^{t-1} | a^t, a^0) leads from the law of a^t to that of a^{t-1}, in mean and variance."""
    process, clean = DDPM(5), torch.tensor([[0.3, -0.8]])
    for time in range(5, 0, -1):
        t = torch.tensor([time])
        now = process.marginal(clean, t)
        step = process.posterior(now.mean, t, clean)
        variance = process.posterior_noisy_coef[time] ** 2 * now.variance + step.variance
        if time == 1:
            torch.testing.assert_close(step.mean, clean, atol=1e-6, rtol=0)
            assert float(variance) == pytest.approx(0, abs=1e-7)
        else:
            earlier = process.marginal(clean, t - 1)
            torch.testing.assert_close(step.mean, earlier.mean, atol=1e-6, rtol=0)
            torch.testing.assert_close(variance, earlier.variance, atol=1e-6, rtol=0)


def test_the_mean_of_a_step_is_the_one_written_with_the_noise():
    """(a^t - beta_t / sqrt(1 - abar_t) eps) / sqrt(1 - beta_t), as in arXiv 2006.11239, algorithm 2."""
    process, beta = DDPM(5, "vp", "beta"), torch.tensor(betas("vp", 5), dtype=torch.float32)
    noisy, noise, t = torch.randn(5, 3), torch.randn(5, 3), torch.arange(1, 6)
    step = process.reverse_step(noisy, t, process.predict_clean(noisy, t, noise))
    expected = (noisy - (beta / process.std[1:]).unsqueeze(1) * noise) / (1 - beta).sqrt().unsqueeze(1)
    torch.testing.assert_close(step.mean, expected, atol=5e-6, rtol=1e-5)
    torch.testing.assert_close(step.variance.squeeze(1), beta)


def test_processes_with_the_same_steps_are_the_same():
    sde = MeanRevertingSDE(5)
    beta = -torch.expm1(-2 * sde.step[1:].double())
    assert float((1 - beta).prod().sqrt()) == pytest.approx(1e-3, rel=1e-5)
    torch.testing.assert_close(
        sde.posterior_std[1:].double() ** 2, beta * sde.std[:-1].double() ** 2 / sde.std[1:].double() ** 2
    )


def test_too_few_linear_steps_are_refused():
    with pytest.raises(ValueError, match="more than 20 steps"):
        DDPM(20, "linear")
