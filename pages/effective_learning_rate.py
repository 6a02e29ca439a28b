"""Why does a normalized network learn ever more slowly, and what happens when weights are projected back?"""

from normviz.experiments.effective_learning_rate.growth import growth_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.panels.effective_learning_rate import implicit_schedule_panel

INTRO = r"""
Put a normalization layer behind a weight matrix $W$ and the size of $W$ no longer matters: $2W$ gives the same output
as $W$. But it does matter for *learning*. A step of the same length turns a long vector by a smaller angle than a short
one, and gradient steps make $W$ longer and longer. So a normalized network learns ever more slowly, as if someone had
turned down the learning rate. What the network feels is the **effective learning rate**.

On one fixed task that is welcome: the network settles. On tasks that keep changing (continual learning, reinforcement
learning) it can do harm: little of the rate may be left when the next task comes.

**Normalize-and-Project (NaP)** undoes this unasked decay. It puts a norm before every nonlinearity and, after every
update, scales each weight tensor back to the length it had at the start. From then on the learning rate is what its
schedule says, no more and no less.

The default task is memorisation: 512 images of digits get random labels, and every phase new ones. The same network is
trained without norm, with a norm, and with NaP, from the same start and on the same batches; other remedies against
lost plasticity can be added, and a small **ResNet** with a norm before every nonlinearity can be trained with NaP and
without. Bands are the range over seeds.
"""

READING = r"""
**How to read it.** *Effective learning rate of each layer* is the paper's point: with a norm only, every layer's rate
falls though the learning rate never changes; NaP's lines stay level. Whether that costs anything shows on *Accuracy at
the end of each phase*, and there it depends on the learning rate: if it is small, weights hardly grow and there is
nothing to undo; if it is too large, NaP keeps it too large, while with the norm alone it falls. So compare each network
at its own best rate. Under SGD the order turned round in our tries: the noise of a constant rate cost more than the
norm's hidden decay. The network without norm learns random labels badly here from the first phase on, and in few phases
it need not get worse; its dormant units increase.

**Re-inject the implicit schedule.** That button (and the switch of the same name) trains a projected network once more,
with the rates that the norm-only network felt, step by step and layer by layer. It has NaP's constant lengths and the
other's decay.

**Equivalence.** In double precision with plain SGD the two views are not similar but the same: raising each layer's
rate with the square of its length gives NaP's network up to rounding, and NaP with the recorded schedule gives the
norm-only network. With rarer projection, or with the output layer projected too, they are no longer the same.

**Stationary** is the control: ordinary digits, where nothing has to be relearned. MNIST-1D and MNIST can be chosen as
the data of all tasks but the games.

**Games.** A small Q-learning agent plays Catch with shuffled pixels, one variant after the other, the whole sequence
twice. The paper's agents (Rainbow on Atari) turned out to need the hidden decay: with projection they need an explicit
one. At this size weights grow by a few percent only, so expect small differences. Exploration starts anew with every
game, for all agents alike. Atari itself can be chosen, but its training takes millions of frames; in minutes one sees
only that it runs.

**What is not tested here:** transformers, ResNets of full size, ImageNet, the language model of 400M weights, Rainbow,
and 400M frames of Atari.
"""

LAW = r"""
How fast does it fall? A gradient that is orthogonal to $W$ adds to the squared length, and with SGD it gets smaller as
$1/\lVert W\rVert$. For a constant gradient size $g$ (at length 1) this can be solved:

$$\lVert W_n\rVert^4 = 1 + 2\,\mathrm{lr}^2 g^2\, n$$

$$\mathrm{lr_{eff}} = \frac{\mathrm{lr}}{\lVert W_n\rVert^2} \ \to\ \frac{1}{g\sqrt{2n}}$$

In the long run the effective rate does not depend on the learning rate at all. Adam, whose steps have one size $s$,
forgets it too: $\lVert W_n\rVert^2 = 1 + \mathrm{lr}^2 s^2 n$ and $\mathrm{lr_{eff}} \to 1/(s\sqrt n)$. The picture
has each law for a learning rate and for a thirtieth of it.
"""

MATHS = (
    Maths(
        "Projection",
        r"""
$\rho_l = \lVert W_l\rVert_F$ at the start, one number for each tensor. After each update

$$W_l \leftarrow \rho_l\, \frac{W_l}{\lVert W_l\rVert_F}$$

The optimizer's memory stays as it is. Scale $\sigma$ and offset $\mu$ of a norm count as *one* vector: through a ReLU
and the next norm only $(\sigma, \mu)$ together is scale-invariant, so they are scaled together, to $\sqrt d$ for $d$
features. The output layer, which no norm follows, is left free.
""",
        "norms/norm_projector.py",
        ("NormProjector._after_step",),
    ),
    Maths(
        "Effective learning rate",
        r"""
If $f(cW) = f(W)$, then $\nabla f(cW) = \tfrac1c \nabla f(W)$ and $\langle \nabla f, W\rangle = 0$. In units of the
start an SGD step therefore acts like one with

$$\mathrm{lr_{eff}} = \mathrm{lr}\, \Big(\frac{\rho}{\lVert W\rVert}\Big)^{2}$$

Adam's steps do not shrink with the gradient; there the power is 1. Orthogonality gives the growth:

$$\lVert W_{t+1}\rVert^2 = \lVert W_t\rVert^2 + \mathrm{lr}^2 \lVert \nabla f\rVert^2$$
""",
        "norms/plasticity.py",
        ("effective_learning_rate",),
    ),
    Maths(
        "NaP without projection",
        r"""
For plain SGD, NaP with rate $\eta$ computes at every step the same function as the un-projected network with

$$\eta_l(t) = \eta\, \Big(\frac{\lVert W_l(t)\rVert}{\rho_l}\Big)^2 \qquad \text{(layer-wise)}$$

$$\eta(t) = \eta\, \frac{\sum_l \lVert W_l(t)\rVert^2}{\sum_l \rho_l^2} \qquad \text{(one global factor, approximate)}$$
""",
        "schedules/effective_lr.py",
        ("MatchedEffectiveLR.get_lr",),
    ),
    Maths(
        "The schedule replayed",
        r"""
The other way round: the un-projected network with constant $\eta$ is NaP with the explicit, layer-wise schedule

$$\eta_l(t) = \eta\, \Big(\frac{\rho_l}{\lVert W_l(t)\rVert}\Big)^2$$

recorded before each step. Exact for SGD; for Adam (power 1) approximate, since its moments mix gradients of different
scales.
""",
        "schedules/effective_lr.py",
        ("ImplicitScheduleReplay.get_lr",),
    ),
    Maths(
        "Why a dead unit behind a norm has a gradient",
        r"""
$\hat x = (x - \bar x)/s$. Backward through LayerNorm, with $g$ the gradient that arrives:

$$dx_j = \tfrac1s \big(g_j - \overline{g} - \hat x_j\, \overline{g \hat x}\big)$$

A dead ReLU has $g_j = 0$. Its own $dx_j$ is still not zero, because mean and variance are those of all units. Without
a norm it is exactly zero.
""",
        "norms/feature_norm.py",
        ("FeatureNorm.forward",),
    ),
)

experiment_page(
    "effective-learning-rate",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    exact=Exact("The law behind it", LAW, lambda: {"growth": growth_figure()}),
    panel=implicit_schedule_panel,
)
