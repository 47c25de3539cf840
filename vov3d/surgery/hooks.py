"""Finds hooks, which a rewritten module would lose."""

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Returns whether a module itself has hooks."""
    return any(getattr(module, kind) for kind in _HOOKS)


def check_no_hooks(name: str, module: nn.Module) -> None:
    """Raises ValueError if a module that is about to be replaced, or one inside it, has hooks."""
    for inner, m in module.named_modules(prefix=name):
        if has_hooks(m):
            raise ValueError(
                f"{inner} ({type(m).__name__}) has hooks that rewriting the model would drop; remove them first"
            )
