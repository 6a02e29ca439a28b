"""Losses of SSTAN's training, planes between domains, and the synthetic paintings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.svm import SVC
from torch import Tensor

from normviz.norms import (
    SSTANLoss,
    domain_hyperplane,
    edit_latent,
    feature_matching_loss,
    hinge_d_loss,
    hinge_g_loss,
    kl_loss,
    make_artsem_like,
)

# -------------------------------------------------------------------------------------------- the losses


def scales(seed: int) -> list[list[Tensor]]:
    torch.manual_seed(seed)
    return [[torch.randn(2, 3, s, s), torch.randn(2, 4, s, s), torch.randn(2, 1, s, s)] for s in (6, 3)]


def test_7_kl_equals_that_of_torchs_distributions() -> None:
    torch.manual_seed(0)
    mu, logvar = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_loss(mu, logvar), expected)
    torch.testing.assert_close(kl_loss(mu, logvar, "batchmean"), expected / 4)
    assert kl_loss(mu, torch.full_like(mu, 1e4)).isfinite()
    assert kl_loss(mu.float(), torch.full((4, 6), -1e4)).isfinite()


def test_7_hinge_is_zero_beyond_its_margins_and_linear_inside() -> None:
    real, fake = [torch.tensor([1.0, 5.0])], [torch.tensor([-1.0, -3.0])]
    assert hinge_d_loss(real, fake) == 0
    inside = hinge_d_loss(
        [torch.tensor([0.5, 2.0]), torch.tensor([1.0])], [torch.tensor([0.0]), torch.tensor([-2.0])]
    )
    assert float(inside) == pytest.approx((0.25 + 1 + 0 + 0) / 2)
    assert float(hinge_g_loss([torch.tensor([1.0, 3.0]), torch.tensor([-4.0])])) == pytest.approx(1.0)


def test_losses_of_map_lists_use_the_prediction_or_the_rest() -> None:
    real, fake = scales(0), scales(1)
    predictions = [m[-1] for m in real], [m[-1] for m in fake]
    torch.testing.assert_close(hinge_d_loss(real, fake), hinge_d_loss(*predictions))
    torch.testing.assert_close(hinge_g_loss(fake), hinge_g_loss(predictions[1]))
    expected = sum(
        np.abs(f.numpy() - r.numpy()).mean()
        for a, b in zip(fake, real, strict=True)
        for f, r in list(zip(a, b, strict=True))[:2]
    )
    assert float(feature_matching_loss(fake, real)) == pytest.approx(float(expected) / 2, rel=1e-5)


def test_feature_matching_does_not_train_on_the_real_side() -> None:
    real = [[m.requires_grad_() for m in maps] for maps in scales(0)]
    fake = [[m.requires_grad_() for m in maps] for maps in scales(1)]
    feature_matching_loss(fake, real).backward()
    assert all(m.grad is None for maps in real for m in maps)
    assert all(m.grad is not None for maps in fake for m in maps[:-1])
    assert all(maps[-1].grad is None for maps in fake)


def test_generators_terms_carry_their_weights() -> None:
    real, fake = scales(0), scales(1)
    torch.manual_seed(2)
    mu, logvar, a, b = (torch.randn(2, 3) for _ in range(4))
    terms = SSTANLoss().generator(real, fake, mu, logvar)
    assert list(terms) == ["gan", "fm", "perceptual", "kl", "total"]
    expected = {
        "gan": hinge_g_loss(fake),
        "fm": 10 * feature_matching_loss(fake, real),
        "perceptual": torch.tensor(0.0),
        "kl": 0.05 * kl_loss(mu, logvar),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(terms["total"], sum(expected.values()))
    seen = SSTANLoss(1, 2, 3, perceptual=lambda fake, real: (fake - 2 * real).mean())
    other = seen.generator(real, fake, mu, logvar, real_image=a, fake_image=b)
    torch.testing.assert_close(other["perceptual"], 2 * (b - 2 * a).mean())
    torch.testing.assert_close(other["kl"], 3 * kl_loss(mu, logvar))
    torch.testing.assert_close(SSTANLoss().discriminator(real, fake), hinge_d_loss(real, fake))


def test_bad_arguments_of_the_losses() -> None:
    real, fake = scales(0), scales(1)
    mu = torch.zeros(2, 3)
    for option in ("lambda_fm", "lambda_perceptual", "lambda_kl"):
        with pytest.raises(ValueError, match=rf"^{option} must"):
            SSTANLoss(**{option: -1.0})
    with pytest.raises(ValueError, match=r"^perceptual must"):
        SSTANLoss(perceptual="vgg")
    with pytest.raises(ValueError, match=r"^fake_image must"):
        SSTANLoss(perceptual=lambda a, b: a.sum()).generator(real, fake, mu, mu, real_image=mu)
    with pytest.raises(ValueError, match=r"^reduction must"):
        kl_loss(mu, mu, "mean")
    with pytest.raises(ValueError, match=r"^logvar must"):
        kl_loss(mu, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"^fake must have as many scales"):
        hinge_d_loss(real, fake[:1])
    with pytest.raises(ValueError, match=r"^fake must have as many maps"):
        feature_matching_loss([fake[0][1:], fake[1]], real)
    with pytest.raises(ValueError, match=r"^fake must have at least one scale"):
        hinge_g_loss([])
    with pytest.raises(TypeError, match=r"^fake must be a list"):
        hinge_g_loss(torch.zeros(3))
    with pytest.raises(TypeError, match=r"^fake must be a list over scales of lists"):
        feature_matching_loss([torch.zeros(3)], [torch.zeros(3)])


# -------------------------------------------------------------------------------------------- the planes


def clouds(seed: int, gap: float, n: int = 60, width: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.randn(n, width, dtype=torch.float64) + gap * labels[:, None].double() + 3, labels


@pytest.mark.parametrize(("seed", "gap"), [(1, 0.5), (2, 3.0), (3, 8.0)])
@pytest.mark.parametrize("positive", [0, 2])
def test_plane_is_that_of_libsvm(seed, gap, positive) -> None:
    z, labels = clouds(seed, gap)
    normal, offset = domain_hyperplane(z, labels, positive)
    y = np.where(labels.numpy() == positive, 1, -1)
    reference = SVC(kernel="linear", C=1.0, tol=1e-6).fit(z.numpy(), y)
    w, b = reference.coef_[0], float(reference.intercept_[0])
    size = float(np.linalg.norm(w))
    # LIBSVM keeps its kernel in float32.
    np.testing.assert_allclose(normal, w / size, rtol=0, atol=1e-3)
    assert offset == pytest.approx(b / size, abs=1e-2)
    assert float(normal.norm()) == pytest.approx(1, abs=1e-12)

    def objective(scale: float, direction: np.ndarray, offset: float) -> float:
        margins = y * scale * (z.numpy() @ direction + offset)
        return scale**2 / 2 + float(np.maximum(0, 1 - margins).sum())

    ours = minimize_scalar(lambda scale: objective(scale, normal.numpy(), offset), bounds=(0, 4 * size)).fun
    assert ours <= objective(size, w / size, b / size) * (1 + 1e-4)


@pytest.mark.parametrize(("seed", "width", "spread"), [(140, 8, 1.0), (21, 16, 0.5)])
def test_plane_of_codes_with_directions_of_very_different_size(seed, width, spread) -> None:
    """Two sets of codes in which a product of the interior-point method vanishes before the plane is found."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(256) % 4
    z = spread * torch.randn(256, width, generator=draw) + torch.eye(4)[labels].repeat(1, width // 4)
    z = (z @ torch.diag(torch.logspace(0, 1, width))).double()
    normal, offset = domain_hyperplane(z, labels, 3)
    y = np.where(labels.numpy() == 3, 1, -1)
    reference = SVC(kernel="linear", C=1.0, tol=1e-6).fit(z.numpy(), y)
    size = float(np.linalg.norm(reference.coef_[0]))
    np.testing.assert_allclose(normal, reference.coef_[0] / size, rtol=0, atol=1e-2)
    assert offset == pytest.approx(float(reference.intercept_[0]) / size, abs=5e-2)


@pytest.mark.parametrize("gap", [0.0, 30.0])
def test_plane_of_labels_that_no_plane_divides_is_midway_between_their_means(gap) -> None:
    z, labels = clouds(0, gap)
    reference = SVC(kernel="linear", C=1.0).fit(z.numpy(), labels.numpy() == 1)
    assert np.linalg.norm(reference.coef_) < 0.01, "the middle one of three clouds in a row has no plane"
    normal, offset = domain_hyperplane(z, labels, 1)
    inside, outside = z[labels == 1].mean(0), z[labels != 1].mean(0)
    torch.testing.assert_close(normal, F.normalize(inside - outside, dim=0))
    distances = inside @ normal + offset, outside @ normal + offset
    torch.testing.assert_close(distances[0], -distances[1])
    assert distances[0] > 0


def test_plane_separates_with_the_positive_side_above() -> None:
    z, labels = clouds(0, 20.0)
    normal, offset = domain_hyperplane(z.float(), labels.to(torch.uint8), 2)
    assert normal.dtype == torch.float32
    assert torch.equal((z.float() @ normal + offset) > 0, labels == 2)


def test_plane_of_two_points_is_their_middle() -> None:
    z = torch.tensor([[1.0, 1.0], [5.0, 4.0]], dtype=torch.float64)
    normal, offset = domain_hyperplane(z, torch.tensor([0, 1]), 1)
    torch.testing.assert_close(normal, torch.tensor([0.8, 0.6], dtype=torch.float64))
    assert offset == pytest.approx(-(3 * 0.8 + 2.5 * 0.6))


def test_10_edit_changes_the_signed_distance_by_alpha() -> None:
    z, labels = clouds(1, 1.0)
    normal, offset = domain_hyperplane(z, labels, 0)
    for alpha in (-2.5, 0.0, 4.0):
        moved = edit_latent(z, normal, alpha) @ normal + offset
        torch.testing.assert_close(moved, z @ normal + offset + alpha, rtol=0, atol=1e-12)


def test_bad_planes_and_edits_are_refused() -> None:
    z, labels = clouds(0, 1.0)
    for positive in (7, -1):
        with pytest.raises(ValueError, match=r"^labels must hold both"):
            domain_hyperplane(z, labels, positive)
    with pytest.raises(ValueError, match=r"^labels must hold both"):
        domain_hyperplane(z, torch.zeros(60, dtype=torch.long), 0)
    with pytest.raises(ValueError, match=r"^labels must have shape"):
        domain_hyperplane(z, labels[:5], 0)
    with pytest.raises(ValueError, match=r"^z must have shape"):
        domain_hyperplane(z[0], labels, 0)
    with pytest.raises(ValueError, match=r"^z must differ"):
        domain_hyperplane(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]), 1)
    with pytest.raises(TypeError, match=r"^labels must"):
        domain_hyperplane(z, labels.double(), 0)
    with pytest.raises(ValueError, match=r"^normal must"):
        edit_latent(z, torch.ones(4), 1.0)
    with pytest.raises(ValueError, match=r"^alpha must"):
        edit_latent(z, torch.ones(5), math.nan)


# ------------------------------------------------------------------------------------------ the paintings


def test_images_are_palettes_over_layouts_up_to_texture() -> None:
    data = make_artsem_like(30, size=24, seed=2)
    image, segmap, palette = data["image"], data["segmap"], data["palette"]
    assert (image.dtype, segmap.dtype, data["domain"].dtype) == (torch.float32, torch.int64, torch.int64)
    assert image.abs().max() <= 1
    assert palette.abs().max() <= 1
    colours = torch.stack([palette[i][segmap[i]].movedim(-1, 0) for i in range(30)])
    assert 0.1 < (image - colours).abs().max() <= 0.15 + 1e-6
    inside = (image - colours).abs().mean()
    assert 0.05 < inside < 0.15


def test_layouts_have_four_regions_in_their_places() -> None:
    segmap = make_artsem_like(60, size=32)["segmap"]
    rows = torch.arange(32).double()
    height = []
    for label in range(4):
        here = segmap == label
        share = here.double().mean((1, 2))
        assert (share > 0.005).all(), label
        height.append((here.double() * rows[:, None]).sum((1, 2)) / here.sum((1, 2)))
    sky, ground, disc, water = height
    assert (sky < ground).all()
    assert (disc < 16).all()
    assert (water > sky).all()
    assert not torch.equal(segmap[0], segmap[1])


@pytest.mark.parametrize(("n", "domains"), [(20, 4), (22, 4), (7, 3)])
def test_domains_are_equally_frequent_up_to_one(n, domains) -> None:
    counts = torch.bincount(make_artsem_like(n, 8, domains)["domain"], minlength=domains)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_palettes_belong_to_domains_and_not_to_seeds() -> None:
    first, other = (make_artsem_like(40, 8, seed=seed, jitter=0.0) for seed in (0, 1))
    for d in range(4):
        ours, theirs = first["palette"][first["domain"] == d], other["palette"][other["domain"] == d]
        assert torch.equal(ours[0].expand_as(ours), ours)
        assert torch.equal(ours[0], theirs[0])
    centres = torch.stack([first["palette"][first["domain"] == d][0] for d in range(4)]).flatten(1)
    assert torch.pdist(centres).min() > 1
    assert not torch.equal(first["segmap"], other["segmap"])
    wide = make_artsem_like(2000, 8, jitter=0.25)
    spread = (wide["palette"] - torch.stack([centres[d].view(4, 3) for d in wide["domain"]])).std()
    assert 0.18 < spread < 0.25


def test_paintings_draw_from_their_own_generator() -> None:
    state = torch.get_rng_state()
    a, b = make_artsem_like(6, 8, seed=5), make_artsem_like(6, 8, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"size": 4}, {"domains": 0}, {"seed": -1}, {"jitter": -0.1}, {"jitter": math.inf}]
)
def test_bad_arguments_of_the_paintings(options) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} must"):
        make_artsem_like(**{"n": 4, **options})
