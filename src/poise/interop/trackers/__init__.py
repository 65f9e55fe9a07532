"""Where curves of runs are shown: TensorBoard, MLflow and Weights & Biases, each behind the same few questions."""

from poise.interop.trackers.mlflow_tracker import MLflowTracker
from poise.interop.trackers.tensorboard_tracker import TensorBoardTracker
from poise.interop.trackers.tracker import Identity, Tracker, tracker
from poise.interop.trackers.wandb_tracker import WandbTracker

__all__ = ["Identity", "MLflowTracker", "TensorBoardTracker", "Tracker", "WandbTracker", "tracker"]
