"""Networks of the families that people serve, small and with random weights.

For the table of automatically chosen layers, and the tests of the choice. Those of transformers are
its own code with a small configuration; the others are written here, after their papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional

from tests.engine.networks import (
    DenseNetLike,
    TemporalCNN,
    UNet,
    VGGLike,
    VolumeCNN,
)

__all__ = ["FAMILIES", "Family"]

PICTURE = (1, 3, 64, 64)
VIT: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_labels": 5,
}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 2, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "num_labels": 5,
}
STAGES: dict[str, Any] = {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 16, 24, 32], "num_labels": 5}
PVT: dict[str, Any] = {
    "image_size": 64,
    "depths": [1, 1, 1, 2],
    "hidden_sizes": [8, 16, 40, 64],
    "num_attention_heads": [1, 2, 5, 8],
    "num_labels": 5,
}
MOBILEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [24, 32, 40],
    "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 96],
    "num_labels": 5,
}
VIDEO = (1, 8, 3, 64, 64)


@dataclass(frozen=True)
class Family:
    """A network, one input that it takes, and what the automatic choice must be.

    layer: the feature layer. grid: of its map. prefix: tokens before it. group: for the table.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    layer: str
    grid: tuple[int, ...]
    prefix: int = 0
    shape: tuple[int, ...] = PICTURE
    format: str = "BCSS"


class Inception(nn.Module):
    """Branches of different kernels, joined by channel (Szegedy et al. 2015), twice."""

    class Block(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.branch1 = nn.Sequential(nn.Conv2d(inputs, 8, 1), nn.ReLU())
            self.branch3 = nn.Sequential(
                nn.Conv2d(inputs, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU()
            )
            self.branch5 = nn.Sequential(
                nn.Conv2d(inputs, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 5, 1, 2), nn.ReLU()
            )
            self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 8, 1), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            branches = (self.branch1, self.branch3, self.branch5, self.pool)
            return torch.cat([branch(x) for branch in branches], 1)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.inception3a = self.Block(16)
        self.inception3b = self.Block(32)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(32, 5)
        self.aux = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        middle = self.inception3a(self.stem(x))
        pooled = self.avgpool(self.inception3b(middle)).flatten(1)
        return {"aux": self.aux(middle), "logits": self.fc(self.dropout(pooled))}


class ConvGRU(nn.Module):
    """A recurrent net with a convolutional front; its head reads the last step."""

    def __init__(self, *, mean: bool = False) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(6, 16, 5, 2, 2), nn.ReLU(), nn.Conv1d(16, 16, 5, 2, 2), nn.ReLU()
        )
        self.gru = nn.GRU(16, 24, batch_first=True)
        self.head = nn.Linear(24, 5)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        steps, last = self.gru(self.front(x).transpose(1, 2))
        return self.head(steps.square().mean(1) if self.mean else last[-1])


class TimeFirstLSTM(nn.Module):
    """torch's own order, (T, B, C), and a label for each step: dense labelling of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.lstm = nn.LSTM(16, 12, bidirectional=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x).tanh())[0])


class FramesThenLSTM(nn.Module):
    """A CNN for each frame of a video, an LSTM over the frames: time folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.lstm = nn.LSTM(12, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.pool(self.cnn(x.flatten(0, 1))).flatten(1)
        return self.head(self.lstm(frames.unflatten(0, x.shape[:2]))[0][:, -1])


class VideoCNN(nn.Module):
    """3-D convolutions with a stride of their own in time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 8, 3, (1, 4, 4), 1), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Conv3d(8, 12, 3, (2, 2, 2), 1), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer1(self.stem(x)).square().mean((2, 3, 4)))


class ChannelsLastCNN(nn.Module):
    """Pictures as TensorFlow has them, (B, H, W, C), features too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 4, 4)
        self.norm = nn.LayerNorm(10)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.head(functional.gelu(y).mean((1, 2)))


CNNS, TOKENS, WINDOWS = "convolutional", "tokens", "windows and pyramids"
DENSE, SEQUENCES, VOLUMES = "dense outputs", "sequences", "volumes and videos"

FAMILIES: tuple[Family, ...] = (
    Family("ResNet", CNNS, lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(embedding_size=8, **STAGES)), "resnet.encoder", (2, 2)),
    Family("VGG", CNNS, VGGLike, "features", (8, 8), shape=(1, 3, 32, 32)),
    Family("DenseNet", CNNS, DenseNetLike, "norm", (16, 16)),
    Family("GoogLeNet / Inception", CNNS, Inception, "inception3b", (8, 8)),
    Family("RegNet", CNNS, lambda: hf.RegNetForImageClassification(hf.RegNetConfig(
        embedding_size=8, groups_width=8, **STAGES)), "regnet.encoder", (2, 2)),
    Family("BiT (ResNet v2)", CNNS, lambda: hf.BitForImageClassification(hf.BitConfig(
        embedding_size=8, depths=[1, 1, 1, 2], hidden_sizes=[32, 32, 64, 64], num_groups=4,
        num_labels=5)), "bit.norm", (2, 2)),
    Family("MobileNet v1", CNNS, lambda: hf.MobileNetV1ForImageClassification(hf.MobileNetV1Config(
        image_size=64, depth_multiplier=0.25, num_labels=5)), "mobilenet_v1.layer.25", (2, 2)),
    Family("MobileNet v2", CNNS, lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(
        image_size=64, depth_multiplier=0.35, num_labels=5)), "mobilenet_v2.conv_1x1", (2, 2)),
    Family("EfficientNet", CNNS, lambda: hf.EfficientNetForImageClassification(
        hf.EfficientNetConfig(image_size=64, width_coefficient=0.25, depth_coefficient=0.3,
                              hidden_dim=320, num_labels=5)), "efficientnet.encoder", (2, 2)),
    Family("ConvNeXt", CNNS, lambda: hf.ConvNextForImageClassification(
        hf.ConvNextConfig(**STAGES)), "convnext.encoder", (2, 2)),
    Family("ConvNeXt v2", CNNS, lambda: hf.ConvNextV2ForImageClassification(
        hf.ConvNextV2Config(**STAGES)), "convnextv2.encoder", (2, 2)),
    Family("channels last", CNNS, ChannelsLastCNN, "norm", (16, 16),
           shape=(1, 64, 64, 3), format="BSSC"),
    Family("ViT", TOKENS, lambda: hf.ViTForImageClassification(
        hf.ViTConfig(**VIT)), "vit.layers.2.layernorm_before", (8, 8), 1),
    Family("DeiT, distilled", TOKENS, lambda: hf.DeiTForImageClassificationWithTeacher(
        hf.DeiTConfig(**VIT)), "deit.layers.2.layernorm_before", (8, 8), 2),
    Family("DINOv2", TOKENS, lambda: hf.Dinov2ForImageClassification(
        hf.Dinov2Config(**VIT)), "dinov2", (8, 8), 1),
    Family("DINOv2, registers", TOKENS, lambda: hf.Dinov2WithRegistersForImageClassification(
        hf.Dinov2WithRegistersConfig(**VIT)), "dinov2_with_registers", (8, 8), 5),
    Family("BEiT, mean of patches", TOKENS, lambda: hf.BeitForImageClassification(
        hf.BeitConfig(**VIT)), "beit.layernorm", (8, 8), 1),
    Family("BEiT, class token", TOKENS, lambda: hf.BeitForImageClassification(
        hf.BeitConfig(use_mean_pooling=False, **VIT)), "beit.layers.2.layernorm_before", (8, 8), 1),
    Family("CLIP image encoder", TOKENS, lambda: hf.CLIPVisionModelWithProjection(
        hf.CLIPVisionConfig(**{k: v for k, v in VIT.items() if k != "num_labels"},
                            projection_dim=16)),
        "vision_model.encoder.layers.2.layer_norm1", (8, 8), 1),
    Family("Swin", WINDOWS, lambda: hf.SwinForImageClassification(
        hf.SwinConfig(**SWIN)), "swin.layernorm", (4, 4)),
    Family("Swin v2", WINDOWS, lambda: hf.Swinv2ForImageClassification(
        hf.Swinv2Config(**SWIN)), "swinv2.layernorm", (4, 4)),
    Family("PVT", WINDOWS, lambda: hf.PvtForImageClassification(
        hf.PvtConfig(**PVT)), "pvt.encoder.block.3.1.layer_norm_1", (2, 2), 1),
    Family("PVT v2", WINDOWS, lambda: hf.PvtV2ForImageClassification(
        hf.PvtV2Config(**PVT)), "pvt_v2", (2, 2)),
    Family("SegFormer encoder", WINDOWS, lambda: hf.SegformerForImageClassification(
        hf.SegformerConfig(**STAGES)), "segformer", (2, 2)),
    Family("FocalNet", WINDOWS, lambda: hf.FocalNetForImageClassification(hf.FocalNetConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 2], hidden_sizes=[16, 32, 64],
        focal_levels=[2, 2, 2], focal_windows=[3, 3, 3], num_labels=5)),
        "focalnet.layernorm", (4, 4)),
    Family("Hiera", WINDOWS, lambda: hf.HieraForImageClassification(hf.HieraConfig(
        image_size=[64, 64], embed_dim=16, depths=[1, 2, 2], num_heads=[1, 2, 4],
        masked_unit_size=[4, 4], num_query_pool=2, num_labels=5)), "hiera.encoder", (4, 4)),
    Family("MobileViT", WINDOWS, lambda: hf.MobileViTForImageClassification(
        hf.MobileViTConfig(**MOBILEVIT)), "mobilevit.conv_1x1_exp", (2, 2)),
    Family("U-Net", DENSE, UNet, "bottleneck", (8, 8), shape=(1, 3, 32, 32)),
    Family("SegFormer", DENSE, lambda: hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(decoder_hidden_size=16, **STAGES)),
        "decode_head.linear_projections.3", (2, 2)),
    Family("DeepLab v3, MobileViT", DENSE, lambda: hf.MobileViTForSemanticSegmentation(
        hf.MobileViTConfig(aspp_out_channels=16, **MOBILEVIT)), "segmentation_head.aspp", (2, 2)),
    Family("DPT", DENSE, lambda: hf.DPTForSemanticSegmentation(hf.DPTConfig(
        **{**VIT, "num_hidden_layers": 4}, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=16)),
        "neck.fusion_stage.layers.0.residual_layer2", (4, 4)),
    Family("temporal CNN", SEQUENCES, TemporalCNN, "block2", (32,), shape=(1, 3, 64),
           format="BCT"),
    Family("convolutions, then GRU", SEQUENCES, ConvGRU, "front", (16,), shape=(1, 6, 64),
           format="BCT"),
    Family("the same, all steps read", SEQUENCES, lambda: ConvGRU(mean=True), "gru", (16,),
           shape=(1, 6, 64), format="BCT"),
    Family("LSTM, a label a step", SEQUENCES, TimeFirstLSTM, "lstm", (64,),
           shape=(64, 1, 6), format="TBC"),
    Family("wav2vec 2.0", SEQUENCES, lambda: hf.Wav2Vec2ForSequenceClassification(hf.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        conv_dim=[16, 16, 16], conv_stride=[5, 2, 2], conv_kernel=[10, 3, 3],
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        classifier_proj_size=16, num_labels=5)), "projector", (79,), shape=(1, 1600), format="BT"),
    Family("3-D CNN", VOLUMES, VolumeCNN, "features", (8, 8, 8), shape=(1, 3, 32, 32, 32),
           format="BCSSS"),
    Family("3-D CNN of a video", VOLUMES, VideoCNN, "layer1", (4, 8, 8),
           shape=(1, 3, 8, 64, 64), format="BCTSS"),
    Family("CNN of frames, then LSTM", VOLUMES, FramesThenLSTM, "cnn", (8, 8, 8),
           shape=VIDEO, format="BTCSS"),
    Family("VideoMAE", VOLUMES, lambda: hf.VideoMAEForVideoClassification(
        hf.VideoMAEConfig(num_frames=8, tubelet_size=2, **VIT)), "videomae", (4, 8, 8),
        shape=VIDEO, format="BTCSS"),
    Family("ViViT", VOLUMES, lambda: hf.VivitForVideoClassification(
        hf.VivitConfig(num_frames=8, tubelet_size=[2, 8, 8], **VIT)),
        "vivit.layers.2.layernorm_before", (4, 8, 8), 1, VIDEO, "BTCSS"),
    Family("TimeSformer", VOLUMES, lambda: hf.TimesformerForVideoClassification(
        hf.TimesformerConfig(num_frames=8, **VIT)),
        "timesformer.encoder.layer.2.layernorm_before", (8, 8, 8), 1, VIDEO, "BTCSS"),
)  # fmt: skip
