"""Self-training: EMA model, pseudo-labels, mixing, augmentation, masking, losses."""
