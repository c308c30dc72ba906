"""Per-sample gradients from hooks, at the cost of a backward pass without weight gradients.

The weights are frozen. Hooks catch what goes into each module and the gradient at what comes out, and
the module's rule (:mod:`trak_steps.gradients.rules`) turns both into its parameters' gradients, which
the sketch takes as factors.

A parameter that is used otherwise than by calling its own module, rows first, has no rule: DeBERTa's
relative positions, say. Then rows are run one at a time, and autograd is asked for the gradients of
just these parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trak_steps.gradients.autocast import autocast
from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.frozen import differentiating
from trak_steps.gradients.model_output import ModelOutput, predict
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.rules import Lookup, Product, Rule, linear, rule_of
from trak_steps.gradients.source import Outputs, concatenate
from trak_steps.gradients.survey import is_shared_lookup, survey
from trak_steps.projection.base import Parameter, Sketch


@dataclass(frozen=True)
class _Hooked:
    """A module with its rule and those of its own parameters that are wanted."""

    module: nn.Module
    rule: Rule
    wanted: dict[str, Parameter]


@dataclass
class _Products:
    """Products that share the right factor; sketched together once the last has come."""

    expected: int = 0
    right: Tensor | None = None
    lefts: list[tuple[Parameter, Tensor]] = field(default_factory=list)


class HookedGradients:
    """Gradients from the inputs of modules and the gradients at their outputs.

    Args:
        model: a classifier in evaluation mode.
        output: the function of the logits to differentiate.
        parameters: what to differentiate it by.
        tokens: how many tokens, with padding, may be run together.
        example: any row, to see how the model uses its parameters.
        precision: what the pass is computed in; below float32 by autocast.

    Attributes:
        one_by_one: the parameters whose gradients cannot be told apart by row in a batch; if there are
            any, rows are run one by one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        output: ModelOutput,
        parameters: Sequence[Parameter],
        *,
        tokens: int,
        example: Row,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.parameters = parameters
        self.tokens = tokens
        self._model = model
        self._output = output
        self._precision = precision
        self._pad = getattr(model.config, "pad_token_id", None) or 0
        named = dict(model.named_parameters())
        tensors = {parameter.name: named[parameter.name] for parameter in parameters}
        found = survey(model, tensors, example, self._pad)
        self.one_by_one = sorted(found.unseen | found.unbatched)
        self._by_autograd = {
            parameter: tensors[parameter.name]
            for parameter in parameters
            if parameter.name in found.unseen
        }
        seen = {id(tensors[p.name]): p for p in parameters if p.name not in found.unseen}
        self._hooked = _find_hooked(model, seen)

    @torch.no_grad()
    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        """See :class:`~trak_steps.gradients.source.GradientSource`."""
        if not self.one_by_one:
            return self._pass(rows, sketch)
        parts = [self._pass([row], sketch.part(slice(i, i + 1))) for i, row in enumerate(rows)]
        return concatenate(parts)

    def _pass(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        device = self._model.device
        batch = collate(rows, device, self._pad)
        labels = batch.pop("label")
        catch = _Catch(len(rows), sketch)
        handles = [
            hooked.module.register_forward_hook(partial(catch.called, hooked), with_kwargs=True)
            for hooked in self._hooked
        ]
        by_autograd = list(self._by_autograd.values())
        gradients: Sequence[Tensor | None] = [None] * len(by_autograd)
        try:
            with differentiating(self._model, by_autograd), torch.enable_grad():
                with autocast(device, self._precision):
                    logits = self._model(**batch).logits
                if self._precision != torch.float32:
                    logits = logits.float()
                margin = self._output.output(logits, labels)
                if margin.requires_grad:
                    inputs = [*by_autograd, *catch.leaves]
                    gradients = torch.autograd.grad(margin.sum(), inputs, allow_unused=True)
            catch.flush()
        finally:
            for handle in handles:
                handle.remove()
            catch.release()
        for parameter, gradient in zip(self._by_autograd, gradients, strict=False):
            if gradient is not None:
                sketch.add(parameter, gradient[None])
        logits = logits.detach()
        return Outputs(margin.detach(), self._output.loss_weight(logits, labels), predict(logits))


class _Catch:
    """What the hooks of one pass share."""

    def __init__(self, rows: int, sketch: Sketch) -> None:
        self.leaves: list[Tensor] = []
        self._rows = rows
        self._sketch = sketch
        self._products: dict[int, _Products] = {}

    def called(
        self,
        hooked: _Hooked,
        module: nn.Module,
        inputs: tuple[Tensor, ...],
        named: dict[str, Any],
        output: Tensor,
    ) -> Tensor:
        """A module was called: wait for the gradient at its output."""
        if not torch.is_grad_enabled():
            return output
        given: Tensor = inputs[0] if inputs else next(iter(named.values()))
        if len(given) != self._rows and is_shared_lookup(module, given):
            given = given.expand(self._rows, -1)
            output = output.expand(self._rows, *output.shape[1:])
        if not output.requires_grad:
            leaf = output.detach().requires_grad_(True)
            self.leaves.append(leaf)
            # The model may change what it gets in place, which a leaf does not allow.
            output = leaf.clone()
        if self._shares(hooked):
            self._products.setdefault(id(given), _Products()).expected += 1
        arrived = partial(self._arrived, hooked, given, given._version)
        output.register_hook(arrived)  # type: ignore[no-untyped-call]
        return output

    def flush(self) -> None:
        """Sketch products that wait for others whose outputs had no part in the margin."""
        for products in self._products.values():
            if products.right is not None:
                self._add_products(products.right, products.lefts)

    def release(self) -> None:
        """Let go of the pass.

        A leaf holds its hook, which holds this, in part out of the garbage collector's sight: what is
        not cut here is never freed.
        """
        self._products.clear()
        self.leaves.clear()

    def _arrived(self, hooked: _Hooked, given: Tensor, version: int, gradient: Tensor) -> None:
        kind = type(hooked.module).__name__
        if given._version != version:
            raise GradientError(
                f"hooks cannot follow this model, it changes the input of a {kind} in place",
                Remedy.WHOLE_GRADIENTS,
            )
        key = id(given)
        if given.is_floating_point():
            given = given.to(gradient.dtype)
        if self._rows == 1:
            # All of it belongs to the one row, whether or not a 1 stands in front.
            width = given.dim() if isinstance(hooked.module, nn.Embedding) else given.dim() - 1
            given = given.reshape(1, -1, *given.shape[width:])
            gradient = gradient.reshape(1, -1, gradient.shape[-1])
        elif len(given) != self._rows:
            raise GradientError(
                f"hooks cannot follow this model, it calls a {kind} with {len(given)} for "
                f"{self._rows} rows",
                Remedy.WHOLE_GRADIENTS,
            )
        for name, own in hooked.rule(hooked.module, given, gradient, hooked.wanted).items():
            parameter = hooked.wanted[name]
            if isinstance(own, Lookup):
                self._sketch.add_rows(parameter, own.ids, own.values)
            elif isinstance(own, Tensor):
                self._sketch.add(parameter, own)
            elif self._shares(hooked):
                self._wait(key, parameter, own)
            else:
                self._add_products(own.right, [(parameter, own.left)])

    def _wait(self, key: int, parameter: Parameter, product: Product) -> None:
        products = self._products[key]
        products.right = product.right
        products.lefts.append((parameter, product.left))
        if len(products.lefts) == products.expected:
            self._add_products(products.right, products.lefts)
            del self._products[key]

    def _add_products(self, right: Tensor, lefts: list[tuple[Parameter, Tensor]]) -> None:
        """Sketch products, without the tokens that have no gradient.

        Above the last attention of a classifier that reads one token, that is all but one. Looked
        for on a CPU only, as a GPU would have to wait for the answer.
        """
        if right.device.type == "cpu" and right.shape[1] > 1:
            alive = torch.zeros(right.shape[1], dtype=torch.bool)
            for _, left in lefts:
                alive |= (left[:, :, 0] != 0).any(0)
            if 2 * int(alive.sum()) <= len(alive):
                for _, left in lefts:
                    alive |= (left != 0).any(2).any(0)
                if not alive.any():
                    return
                right = right[:, alive]
                lefts = [(parameter, left[:, alive]) for parameter, left in lefts]
        self._sketch.add_products(right, lefts)

    @staticmethod
    def _shares(hooked: _Hooked) -> bool:
        """Whether a module's input is the right factor of its weight's gradient."""
        return hooked.rule is linear and "weight" in hooked.wanted


def _find_hooked(model: nn.Module, parameters: Mapping[int, Parameter]) -> list[_Hooked]:
    """The modules that have a rule and own some of the parameters, which come by their tensor's id."""
    found = []
    for module in model.modules():
        rule = rule_of(module)
        own = module.named_parameters(recurse=False)
        wanted = {name: parameters[id(tensor)] for name, tensor in own if id(tensor) in parameters}
        if rule and wanted:
            found.append(_Hooked(module, rule, wanted))
    return found
