"""A network as a plain function of its inputs, for losses that must not reach its weights."""

from torch import Tensor, nn
from torch.func import functional_call


def frozen(network: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the network's output, through which gradients reach the inputs and never the parameters.

    A compiled backward pass would otherwise work out gradients of the parameters that nobody asks for.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    output: Tensor = functional_call(network, parameters, inputs)
    return output
