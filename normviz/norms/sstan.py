r"""SSTAN, spatially style-adaptive normalization: layout and style meet in every norm of a generator of artworks.

Yuantian Huang, Satoshi Iizuka, Edgar Simo-Serra, Kazuhiro Fukui, "Controllable Multi-domain Semantic Artwork
Synthesis", Computational Visual Media 2023, arXiv 2308.10111.

SPADE makes scale and shift of each normalization a function of the layout, but a style enters once, at the generator's
input. SEAN has a style branch and a layout branch and mixes their maps. SSTAN feeds layout and style together into one
network in every norm, so that scale and shift depend on "what is here" and "in which style" jointly. Styles come from a
variational encoder per art domain. In the space of style codes, moving along the normal of a plane between domains
changes the domain while the layout stays.

    the layer, and its controls                          SSTAN; SPADE, SEAN, StyleOnlyNorm
    residual block and generator of SPADE                SemanticResBlock, SemanticGenerator
    encoders of style                                    DomainVariationalEncoder, RegionStyleEncoder
    discriminator and losses                             MultiscaleDiscriminator, SSTANLoss and its terms
    control of the domain                                domain_hyperplane, edit_latent
    a world with known styles, ours                      make_artsem_like

What is confirmed: from the paper's abstract, domain-dependent variational encoders, joint normalization of semantics
and style, planes in the latent space; from the public code of SPADE (NVlabs/SPADE) and SEAN (ZPdesu/SEAN), all that is
theirs. The inside of SSTAN, the encoders' layout and how the discriminator sees the domain could not be read; there
this is a **reconstruction from the published description**, and each class says what is ours.

SPADE's training, for reference: Adam with betas (0.0, 0.9), lr 1e-4 for generator and encoders, 4e-4 for the
discriminator, one step of each in turn, 50 epochs.
"""

from __future__ import annotations

from normviz.norms.latent_hyperplane import domain_hyperplane, edit_latent
from normviz.norms.sean import SEAN, region_average_pool
from normviz.norms.semantic_discriminator import MultiscaleDiscriminator
from normviz.norms.semantic_encoders import DomainVariationalEncoder, RegionStyleEncoder
from normviz.norms.semantic_generator import SemanticGenerator, SemanticResBlock
from normviz.norms.semantic_norms import SPADE, SSTAN, StyleOnlyNorm
from normviz.norms.sstan_losses import (
    SSTANLoss,
    feature_matching_loss,
    hinge_d_loss,
    hinge_g_loss,
    kl_loss,
)
from normviz.norms.synthetic_artsem import make_artsem_like

__all__ = [
    "SEAN",
    "SPADE",
    "SSTAN",
    "DomainVariationalEncoder",
    "MultiscaleDiscriminator",
    "RegionStyleEncoder",
    "SSTANLoss",
    "SemanticGenerator",
    "SemanticResBlock",
    "StyleOnlyNorm",
    "domain_hyperplane",
    "edit_latent",
    "feature_matching_loss",
    "hinge_d_loss",
    "hinge_g_loss",
    "kl_loss",
    "make_artsem_like",
    "region_average_pool",
]
