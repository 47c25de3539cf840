"""The full trainer, evaluator and detector on `vov3d`, with the recipes of the paper."""
