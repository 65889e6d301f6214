"""Combinations of options that cannot be computed, refused when a model is made."""

from collections.abc import Sequence

from edp_lightning.errors import UserError


def check_aggregation(q_aggregation: str, num_critics: int) -> None:
    """Refuse a spread over one critic.

    Raises:
        UserError: With both options.
    """
    if q_aggregation == "lcb" and num_critics < 2:
        raise UserError(
            f"q_aggregation 'lcb' needs the spread of at least 2 critics but num_critics is {num_critics}: raise "
            "model.num_critics or set model.q_aggregation to 'min'"
        )


def check_entropy(
    entropy: str, entropy_coef: float, entropy_states: int | None, num_diffusion_steps: int, reverse_variance: str
) -> None:
    """Refuse entropy terms that are not defined; arguments as of ``EntropyDiffusionPolicy``.

    Raises:
        UserError: With the options that clash.
    """
    if entropy_coef <= 0:
        raise UserError(f"entropy_coef must be above 0 (got {entropy_coef}); use entropy: none to leave the term out")
    if entropy_states is not None and entropy_states < 1:
        raise UserError(f"entropy_states must be at least 1 (got {entropy_states}), or null for the whole batch")
    if entropy == "reference" and num_diffusion_steps < 3:
        raise UserError("entropy 'reference' skips the first diffusion step and needs num_diffusion_steps >= 3")
    if entropy == "path" and reverse_variance == "matched":
        raise UserError(
            "entropy 'path' bounds the entropy of a chain with posterior variances: set model.reverse_variance to 'posterior', "
            "or model.entropy to another estimator"
        )


def check_bounds(name: str, bounds: Sequence[float] | None) -> None:
    """Refuse bounds that are not a least and a greatest number; None is none.

    Raises:
        UserError: With the bounds.
    """
    if bounds is None:
        return
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise UserError(f"{name} must be a least and a greater number, as in [0, 100], or null for none (got {list(bounds)})")
