"""The regularisers: how teacher features take part in training."""
