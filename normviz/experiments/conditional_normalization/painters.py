"""Networks that paint a layout in a style: SSTAN and its rivals, trained on the same pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normviz.experiments.conditional_normalization.knobs import PAINTERS, Knobs
from normviz.experiments.conditional_normalization.painted_world import (
    BATCH,
    SIZE,
    PaintedWorld,
    Pictures,
    as_maps,
    region_colours,
)
from normviz.experiments.conditional_normalization.recorded import DOMAINS, REGIONS
from normviz.experiments.conditional_normalization.style_moves import latent_values
from normviz.frame import Frame, Value
from normviz.norms import (
    DomainVariationalEncoder,
    MultiscaleDiscriminator,
    RegionStyleEncoder,
    SemanticGenerator,
    SSTANLoss,
    kl_loss,
)
from normviz.training import Diverged, Trainee, interleave
from normviz.training.seeding import seeded

__all__ = ["Painter", "Style", "paint_layouts", "transfer_error"]

BASE, HIDDEN, STYLE = 8, 16, 16
"""Width unit of all networks, channels inside the modulation, width of the style inside the norms."""
PIXELS, PIXELS_BESIDE = 10.0, 5.0
"""Weight of the mean absolute error of the pixels, alone and beside a discriminator."""
BETAS = (0.0, 0.9)
"""Of Adam, as in SPADE's official training."""
EVALUATIONS, LEAST_APART, OF_MOVES = 8, 5, 2
"""Evaluations of a run, steps between two of a short one; every second one also walks along the planes' normals."""


def paint_layouts(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Train every painter on every seed's pictures, one step each in turn."""
    members: list[Painter] = []
    for seed in knobs.seed_range():
        world = PaintedWorld(knobs, seed, device)
        members += [Painter(kind, world, device) for kind in knobs.kinds()]
    yield from interleave(
        members,
        until=knobs.steps,
        evaluate=_evaluate,
        eval_every=max(LEAST_APART, knobs.steps // EVALUATIONS),
        evaluate_all_first=True,
    )


@dataclass(frozen=True, eq=False)
class Style:
    """What a painter is told of a style.

    Args:
        z: style codes (N, Z), with which the generator paints; None for SEAN.
        regions: SEAN's style vectors of the regions (N, 4, S).
        mu, logvar: mean and log variance of the codes (N, Z), where there is an encoder of codes.
    """

    z: Tensor | None = None
    regions: Tensor | None = None
    mu: Tensor | None = None
    logvar: Tensor | None = None


class Painter:
    """One arm with one seed, as :func:`interleave` sees it; with one seed all start from the same encoder.

    Args:
        kind: the arm's key in the knobs.
        world: of its seed.
        device: of its networks.
    """

    def __init__(self, kind: str, world: PaintedWorld, device: torch.device) -> None:
        knobs = world.knobs
        self.kind, self.world, self.seed = kind, world, world.seed
        self.arm = PAINTERS[kind]
        self.evaluated = 0
        with seeded(self.seed):
            encoder, generator = _encoder(kind, knobs), _generator(kind, knobs)
            opponent = (
                MultiscaleDiscriminator(len(REGIONS) + 3 + len(DOMAINS), base=BASE, layers=3, scales=1)
                if knobs.adversary
                else None
            )
        self.encoder = None if encoder is None else encoder.to(device)
        self.generator = generator.to(device)
        self.opponent = None if opponent is None else opponent.to(device)
        trained = [*self.generator.parameters(), *(() if encoder is None else encoder.parameters())]
        self.optimizer = torch.optim.Adam(trained, lr=knobs.paint_rate, betas=BETAS)
        self.rival = (
            None
            if self.opponent is None
            else torch.optim.Adam(self.opponent.parameters(), lr=2 * knobs.paint_rate, betas=BETAS)
        )
        self.losses = SSTANLoss(
            lambda_perceptual=PIXELS_BESIDE, lambda_kl=knobs.kl / BATCH, perceptual=_pixel_error
        )

    @property
    def modules(self) -> list[nn.Module]:
        """The networks that paint."""
        return [self.generator] if self.encoder is None else [self.generator, self.encoder]

    def style(self, pictures: Pictures, generator: torch.Generator | None = None) -> Style:
        """The style of some pictures; with a generator the codes are drawn around their means, as in training."""
        if self.encoder is None:
            return Style(z=pictures.image.new_zeros(len(pictures.domain), self.world.knobs.latent))
        if self.kind == "sean":
            return Style(regions=self.encoder(pictures.image, as_maps(pictures.segmap)))
        assert isinstance(self.encoder, DomainVariationalEncoder)
        one_for_all = self.world.knobs.encoder == "one"
        domain = torch.zeros_like(pictures.domain) if one_for_all else pictures.domain
        mu, logvar = self.encoder(pictures.image, domain)
        z = mu if generator is None else self.encoder.sample(mu, logvar, generator)
        return Style(z=z, mu=mu, logvar=logvar)

    def paint(self, segmap: Tensor, style: Style) -> Tensor:
        """Pictures of layouts (N, 16, 16) in as many styles."""
        painted: Tensor = self.generator(segmap, style.z, style.regions)
        return painted

    def step(self, at: int) -> dict[str, Value]:
        """One update: the loss and its parts."""
        batch, draw = self.world.batch(at), self.world.generator(at)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * self.seed + at)  # SEAN adds noise in every norm
            painted, style = self._painted(batch, draw)
            if self.opponent is None:
                terms = self._pixel_terms(batch, painted, style)
            else:
                terms = self._adversarial_terms(batch, painted, style)
            self.optimizer.zero_grad()
            terms["total"].backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        value = float(terms["total"].detach())
        if not math.isfinite(value):
            raise Diverged(f"the training loss is {value}", lost=("loss", "transfer_error"))
        values: dict[str, Value] = {
            "loss": value,
            "pixels": float(_pixel_error(painted, batch.image).detach()),
        }
        if style.mu is not None:
            values["kl"] = float(terms["kl"].detach()) / self.world.knobs.kl
        return values

    def _painted(self, batch: Pictures, draw: torch.Generator) -> tuple[Tensor, Style]:
        for module in self.modules:
            module.train()
        style = self.style(batch, draw)
        return self.paint(batch.segmap, style), style

    def _pixel_terms(self, batch: Pictures, painted: Tensor, style: Style) -> dict[str, Tensor]:
        pixels = PIXELS * _pixel_error(painted, batch.image)
        kl = torch.zeros_like(pixels)
        if style.mu is not None and style.logvar is not None:
            kl = self.world.knobs.kl * kl_loss(style.mu, style.logvar, reduction="batchmean")
        return {"kl": kl, "total": pixels + kl}

    def _adversarial_terms(self, batch: Pictures, painted: Tensor, style: Style) -> dict[str, Tensor]:
        """One step of the discriminator, and the generator's terms against it."""
        assert self.rival is not None
        fake, real = self._judged(batch, painted.detach())
        self.rival.zero_grad()
        self.losses.discriminator(real, fake).backward()  # type: ignore[no-untyped-call]
        self.rival.step()
        fake, real = self._judged(batch, painted)
        nothing = painted.new_zeros(len(painted), 1)
        mu = nothing if style.mu is None else style.mu
        logvar = nothing if style.logvar is None else style.logvar
        return self.losses.generator(real, fake, mu, logvar, batch.image, painted)

    def _judged(self, batch: Pictures, painted: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The discriminator's maps of painted and of real pictures, which go through it as one batch."""
        assert self.opponent is not None
        domain = torch.nn.functional.one_hot(batch.domain, len(DOMAINS)).float()
        planes = domain[:, :, None, None].expand(-1, -1, SIZE, SIZE)
        known = torch.cat([as_maps(batch.segmap), planes], 1)
        both = torch.cat([torch.cat([known, painted], 1), torch.cat([known, batch.image], 1)])
        judged = self.opponent(both)
        parts = [[stage.chunk(2) for stage in scale] for scale in judged]
        return [[f for f, _ in scale] for scale in parts], [[r for _, r in scale] for scale in parts]


def _encoder(kind: str, knobs: Knobs) -> nn.Module | None:
    if kind == "layout":
        return None
    if kind == "sean":
        return RegionStyleEncoder(STYLE)
    domains = 1 if knobs.encoder == "one" else len(DOMAINS)
    return DomainVariationalEncoder(domains, knobs.latent, BASE, SIZE, share_trunk=knobs.encoder == "trunk")


def _generator(kind: str, knobs: Knobs) -> SemanticGenerator:
    return SemanticGenerator(
        len(REGIONS),
        knobs.latent,
        BASE,
        SIZE,
        "spade" if kind == "layout" else kind,
        param_free=knobs.param_free,
        upsamplings=3,
        hidden=HIDDEN,
        style_dim=STYLE,
    )


def _pixel_error(painted: Tensor, image: Tensor) -> Tensor:
    return (painted - image).abs().mean()


def transfer_error(painted: Tensor, segmap: Tensor, palette: Tensor) -> float:
    """Mean absolute difference of the regions' mean colours from a palette, over regions that the layout has.

    Args:
        painted: pictures (N, 3, H, W) in [-1, 1].
        segmap: their layouts (N, H, W).
        palette: colours of the style pictures' regions (N, 4, 3).
    """
    colours, there = region_colours(painted, segmap)
    return float((colours - palette).abs()[there].mean())


@torch.no_grad()
def _evaluate(trainee: Trainee, step: int) -> dict[str, Value]:
    """Errors on test pictures; pictures in another's style; where the codes lie, and walks between the domains."""
    assert isinstance(trainee, Painter)
    world, first = trainee.world, trainee.world.seed == trainee.world.knobs.first_seed
    for module in trainee.modules:
        module.eval()
    walks = trainee.evaluated % OF_MOVES == 0 or step >= world.knobs.steps
    trainee.evaluated += 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000_003 * trainee.seed + step)
        test = world.test
        style = trainee.style(test)
        layouts = test.segmap.roll(1, 0)
        values: dict[str, Value] = {
            "transfer_error": transfer_error(trainee.paint(layouts, style), layouts, test.palette),
        }
        grid = _grid(trainee)  # (layouts, styles, 3, 16, 16)
        values["style_change"] = float((grid.amax(1) - grid.amin(1)).max())
        if first:
            values["pictures"] = grid.cpu().numpy()
            if not step:
                values["style_pictures"] = world.styles.image.cpu().numpy()
                values["layout_maps"] = world.layouts.segmap.float().cpu().numpy()
                values["domains"] = test.domain.float().cpu().numpy()
        if style.mu is not None:
            train_codes = trainee.style(world.fitted).mu
            assert train_codes is not None

            def paint(segmap: Tensor, z: Tensor) -> Tensor:
                return trainee.paint(segmap, Style(z=z))

            values |= latent_values(world, train_codes, style.mu, paint, walks=walks, drawn=first)
    return values


def _grid(painter: Painter) -> Tensor:
    """Every layout that is drawn in every style that is drawn, (layouts, styles, 3, 16, 16)."""
    world = painter.world
    styles, layouts = len(world.styles.domain), len(world.layouts.domain)
    index = torch.arange(styles, device=world.styles.domain.device).repeat(layouts)
    segmap = world.layouts.segmap.repeat_interleave(styles, 0)
    painted = painter.paint(segmap, painter.style(world.styles.at(index)))
    return painted.view(layouts, styles, *painted.shape[1:])
