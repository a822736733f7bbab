"""What the documentation says of methods that are no criteria, and where they are in the code."""

from __future__ import annotations

from dataclasses import dataclass

from hwprune.importance import Description


@dataclass(frozen=True)
class Entry:
    """A description, and the function or class that it is about: ``module:name``."""

    where: str
    description: Description


def _entry(
    name: str,
    where: str,
    *,
    summary: str,
    formula: str,
    data: str,
    cost: str,
    paper: str,
    origin: str = "authors",
    details: str = "",
) -> Entry:
    return Entry(where, Description(name, summary, details, paper, formula, data, "", origin, cost))


REPAIRS: tuple[Entry, ...] = (
    _entry(
        "recalibration",
        "hwprune.repair.recalibrate:recalibrate_batchnorm",
        summary="BatchNorm statistics of the smaller model are measured again.",
        formula="running mean and variance = those of the batches, in training mode without gradients",
        data="unlabelled",
        cost="one forward pass a batch",
        paper="Ioffe and Szegedy, ICML 2015; after pruning: Li et al., EagleEye, ECCV 2020",
    ),
    _entry(
        "bias folding",
        "hwprune.edits:fold_dead",
        summary="Channels of one constant value go, and their effect stays in the biases behind them.",
        details="Exact, and verified against the original itself; not folded where zero padding makes the "
        "value differ at the borders.",
        formula="b ← b + Σ over spatial positions of w·(the channel's value)",
        data="none",
        cost="reads the weights once",
        paper="follows Liu et al., Network Slimming, ICCV 2017, whose masks zero scale and shift",
        origin="adapted",
    ),
    _entry(
        "least_squares",
        "hwprune.repair.least_squares:reconstruct",
        summary="Layers that lost input channels are fitted to what the same layer of the original writes.",
        details="In the order of the network: inputs are those behind the pruned and repaired layers before, "
        "targets are the original's. A ridge holds the weights to those that are there. A fit that is no "
        "nearer to its targets is left out.",
        formula="min over W, b of ‖Y − X·W − b‖² + ridge·‖W − W₀‖², at sampled positions that are replayed",
        data="unlabelled",
        cost="two forward passes, sums of products of a layer's inputs, one linear system a layer",
        paper="He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
    ),
    _entry(
        "residual correction",
        "hwprune.repair.sampler:Sampler",
        summary="The last layer of a residual branch makes up for what its shortcut has lost.",
        formula="the target of the branch is Y + (original shortcut − present shortcut)",
        data="unlabelled",
        cost="part of least_squares",
        paper="He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
    ),
    _entry(
        "channel sampler",
        "hwprune.surgery.sampler:sample",
        summary="The first layer of a residual branch reads fewer channels than the stream has.",
        details="The stream keeps its width; an index in front of the layer picks the channels. Verified "
        "against the model whose layer reads zeros in their place.",
        formula="x ↦ layer(x at the chosen channels), the layer's weight cut to these",
        data="none",
        cost="an index at every branch, which takes time on the device",
        paper="He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
    ),
    _entry(
        "scales",
        "hwprune.repair.regression:fit_scales",
        summary="One factor per kept input channel is fitted and multiplied into the weights behind it.",
        formula="min over s of ‖Y − Σ sᵢ·XᵢWᵢ‖²",
        data="unlabelled",
        cost="as least_squares, with smaller systems",
        paper="Luo, Wu and Lin, ThiNet, ICCV 2017",
    ),
    _entry(
        "channel sampler",
        "hwprune.surgery.sampler:sample",
        summary="The first layer of a residual branch reads fewer channels than the stream has.",
        details="Not a repair, but fitted by one: the stream stays as it is; channels are picked in front "
        "of the layer. Picking takes time of its own.",
        formula="X ← X[:, S]; then least_squares for W[:, S]",
        data="none",
        cost="a gather in front of the layer",
        paper="He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
    ),
    _entry(
        "fine-tuning",
        "hwprune.repair.finetune:finetune",
        summary="The smaller model is trained on.",
        formula="gradient descent on the loss",
        data="labelled",
        cost="one forward and one backward pass a batch, for as many batches as are allowed",
        paper="Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
    ),
    _entry(
        "distillation",
        "hwprune.repair.distill:distillation_loss",
        summary="The smaller model is trained on with the original's outputs as soft labels.",
        formula="τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), mixed with the loss on labels",
        data="unlabelled",
        cost="as fine-tuning, and a forward pass of the original a batch",
        paper="Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015",
    ),
)

WIDTHS: tuple[Entry, ...] = (
    _entry(
        "global threshold",
        "hwprune.importance.threshold:global_threshold",
        summary="One threshold over the scores of all groups.",
        formula="threshold = sorted scores at int(total·share); what is strictly above it stays",
        data="none",
        cost="a sort",
        paper="Liu et al., Network Slimming, ICCV 2017",
    ),
    _entry(
        "exact count",
        "hwprune.importance.threshold:keep_exactly",
        summary="Exactly so many of the best units of all groups stay.",
        details="Of equal scores the earlier group and the lower number stay, and no group is emptied.",
        formula="the κ best of all scores, κ = round(total·(1 − sparsity)), with the best of each group",
        data="none",
        cost="a sort",
        paper="Lee et al., SNIP, ICLR 2019, whose units are single weights",
        origin="adapted",
    ),
    _entry(
        "sensitivity scan",
        "hwprune.planner.curves.sensitivity:sensitivity_scan",
        summary="Accuracy or loss of every group at several widths, one group at a time, without a repair.",
        formula="the model with one group cut to its best 90, 80, ... 10 %",
        data="labelled",
        cost="a forward pass over the held-out batches for every group and width",
        paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    _entry(
        "calibration",
        "hwprune.planner.curves.calibrate:calibrate",
        summary="The same after a repair and at few widths, as the objective of the solver.",
        formula="Σ over groups of (loss at the width after the repair − loss)^¾, interpolated between",
        data="labelled",
        cost="a repair and a forward pass over the held-out batches for every group and three widths",
        paper="after He et al., AMC, ECCV 2018, and Yang et al., NetAdapt, ECCV 2018",
        origin="adapted",
    ),
    _entry(
        "JointPruning",
        "hwprune.planner.joint.workbench:joint_solver",
        summary="Widths, blocks and the input resolution are searched for together.",
        formula="gradient estimates from the losses of pairs of networks that share their weights",
        data="labelled",
        cost="forward passes of candidates over held-out batches, after a training of the shared weights",
        paper="Liu et al., JointPruning, arXiv 2005.08931, 2020",
        origin="adapted",
    ),
    _entry(
        "rounds",
        "hwprune.planning.iterative:prune_iteratively",
        summary="Cuts, fits and training in turns; scores build up while the model trains.",
        formula="latency after round i of n: linear, exponential, or cubic (AGP) from 1 to the budget",
        data="labelled",
        cost="the training, and a score of every batch that counts",
        paper="Molchanov et al., ICLR 2017 and CVPR 2019; schedule: Zhu and Gupta, arXiv 1710.01878",
        origin="adapted",
    ),
)
