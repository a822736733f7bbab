"""Surgery: a plan becomes a smaller model, verified against the masked original."""

from hwprune.surgery.apply import cut_graph
from hwprune.surgery.loaded import load_pruned
from hwprune.surgery.masked import masked_original
from hwprune.surgery.module import cut_module
from hwprune.surgery.prune import prune_model
from hwprune.surgery.saved import replace_weights, save_pruned
from hwprune.surgery.verify import verify, verify_each

__all__ = [
    "cut_graph",
    "cut_module",
    "load_pruned",
    "masked_original",
    "prune_model",
    "replace_weights",
    "save_pruned",
    "verify",
    "verify_each",
]
