"""Training in several processes: their group, and embedding tables sharded by TorchRec."""
