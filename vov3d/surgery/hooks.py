"""Finds hooks, which a rewritten module would lose."""

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from vov3d.surgery.kinds import has_own_forward

_OWN_HOOKS: dict[type, str] = {
    BasePruningMethod: "prune.remove(module, 'weight')",
    WeightNorm: "remove_weight_norm(module)",
    SpectralNorm: "remove_spectral_norm(module)",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Returns whether a module itself has hooks."""
    return any(getattr(module, kind) for kind in _HOOKS)


def _cure(module: nn.Module) -> str:
    """Returns how to remove a module's hooks; PyTorch's own tools set some, of which users may not know."""
    for hook in module._forward_pre_hooks.values():
        for kind, remove in _OWN_HOOKS.items():
            if isinstance(hook, kind):
                return f"they compute its weight: undo that with torch.nn.utils.{remove} first"
    return "remove them first"


def check_no_hooks(name: str, module: nn.Module) -> None:
    """Raises ValueError if a module that is about to be replaced, or one inside it, has hooks."""
    for inner, m in module.named_modules(prefix=name):
        if has_hooks(m):
            raise ValueError(f"{inner} ({type(m).__name__}) has hooks that rewriting the model would drop; {_cure(m)}")


def check_own_code_runs(model: nn.Module, what: str) -> None:
    """Checks that no module of a model has hooks or a `forward` set on the instance, which only calls of it run.

    Args:
        model: The model.
        what: What does not run them, such as `"a file cannot hold"`.

    Raises:
        ValueError: If one has; names the first.
    """
    for name, module in model.named_modules():
        if has_hooks(module):
            raise ValueError(f"{name or 'the model'} has hooks, which {what}; {_cure(module)}")
        if has_own_forward(module):
            raise ValueError(
                f"{name or 'the model'} has a forward that was set on the instance, which {what}; take it off"
                " (Accelerate: unwrap_model(model, keep_fp32_wrapper=False); torch.compile: model._orig_mod)"
            )
