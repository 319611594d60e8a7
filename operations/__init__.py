"""Operations after the first training: retraining, monitoring and the simulated daily loop."""
