"""Where should an adapter start, given what the layer has seen?"""

from normviz.experiments.context_adapters.context_plane import plane_figure
from normviz.ui import Exact, Maths, experiment_page

INTRO = r"""
An **adapter** is a small product $BA$ of two thin matrices that is added to a frozen weight $W$. Only $A$ and $B$ are
trained. So a network can learn a new task with few numbers. Two things are wanted: that it **learns** the new task, and
that it **keeps** what it knew before.

Where do $A$ and $B$ start?

- **LoRA** starts with random $A$ and $B = 0$: without effect, and without knowledge of the network.
- **PiSSA** takes the $r$ largest components of the singular value decomposition (SVD) of $W$ and trains them.
- **CorDA** also looks at data. It sends a few *calibration samples* through the network and collects, for each layer,
  the covariance $C$ of its inputs. Then it decomposes $WC$ in place of $W$. Directions that the samples excite get
  large singular values, the others small ones.

CorDA then has two modes. **KPA** (knowledge-preserved adaptation; `kpm` in code) takes the covariance of data to *keep*
and trains the $r$ *smallest* components: those that the old task hardly uses. **IPA** (instruction-previewed
adaptation; `ipm` in code) takes the covariance of data to *learn* and trains the $r$ *largest*.

Here a network of 64, 128, 128 and 10 units knows handwritten digits. The new task is the same digits with their pixels
shuffled and their labels shifted by 5. (*MNIST*, with 784 inputs, and *MNIST-1D*, with 40, can take their place.) All
adapters have the same size, steps and learning rate. **Full** trains every weight.
"""

READING = r"""
**How to read it.** In *Learning against keeping* every arm is a point that begins at the upper left: it knows the first
task and not the new one. Training moves it to the right (learned) and often down (forgotten). The best place is the
upper right corner. Points are means over the seeds; *Both tasks, seed by seed* under *More charts* has each of them.
The seeds differ much, because each shuffles the pixels in its own way.

**Why KPA keeps so much here.** Look at *Pixels that each adapter reads*. Some pixels are black in nearly all old
digits. A weight that reads them does nothing for the first task, and $WC$ says so: its smallest components live there.
KPA trains exactly these. The shuffling moves strokes of the new digits onto such pixels, so that there is something to
learn. Turned digits do the same at the edges. *Same pictures, new labels* is the other end: no pixel is quiet for one
task and strong for the other, and one picture cannot have two labels.

**Far is not harmful.** *How far the weights went* and *The change that old digits feel*, under *More charts*: KPA can
move its weights far and still change little of what the first task feels. The second chart weighs the change by $C$.

**Spectra.** $W$ alone has no small components worth the name. $WC$ falls over several powers of ten. The grey fields
are what an adapter of rank $r$ takes at either end.

**Discarding.** The paper shows that a network survives longer when the small components of $WC$ are discarded than with
those of $W$ (SVD) or of $W$ scaled by the size of each input (ASVD). By construction CorDA has the least error weighted
by $C$ (*Weighted error after discarding*). The loss is another matter: CorDA uses $C$ and not its root, so that it does
not minimise the error of the layer's output. An earlier measurement on standardised digits had CorDA behind ASVD at
some shares, so that this claim was expected to fail.

**Calibration.** *On the wrong task*: KPA is given the digits to learn, IPA those to keep. *On noise*: every pixel is
random, $C$ is nearly the same in all directions, and IPA in the first layer comes near PiSSA. *Four samples*: most
directions are unseen, only the damping fills them.

**What is small here.** In the paper a language model of 7 billion weights learns arithmetic. Here a toy network learns
shuffled digits. The learning rate matters more than the start at this scale: PiSSA and IPA begin with large factors,
so that the same rate moves the function faster than in LoRA. *Each at its own best rate* is the fairer comparison:
there the lead in learning all but vanishes, and what differs is how much is kept, seed by seed.
"""

EXACT = Exact(
    "Two inputs",
    r"""
The same decomposition for a layer with two inputs and adapters of rank 1; the chart follows its sliders, nothing is
run. The cloud is what the layer has seen. PiSSA reads along the strong direction of $W$, whatever the cloud is. KPA
reads *across* the cloud: the *spread* is the standard deviation of the data along a line, and where it is small a
change is hardly felt. Make the short axis 1: the cloud is round, $C$ says nothing, and IPA is PiSSA.
""",
    lambda: {"plane": plane_figure()},
)

MATHS = (
    Maths(
        "What the layer has seen",
        r"""
For each sample $x$ [tokens, in] at the input of a layer:

$$x \leftarrow x / |\max x|, \qquad C = \frac1N \sum_{\text{samples}} x^\top x$$

No mean is subtracted. Here a picture is a sample of one token. The scale of $C$ does not matter for what follows.
""",
        "adapters/covariance_collector.py",
        ("CovarianceCollector._collect", "CovarianceCollector.covariances"),
    ),
    Maths(
        "Damping",
        r"""
$$C' = C + \delta\,\overline{C_{ii}}\, I$$

with δ = 0.01, doubled until $\|C'C'^{-1} - I\|_F < 0.05$. A pixel that is always black makes $C$ singular: without
damping there is no inverse.
""",
        "adapters/context_svd.py",
        ("damped_covariance",),
    ),
    Maths(
        "The context-oriented decomposition",
        r"""
$$W C' = U\,\mathrm{diag}(S)\,V^\top, \qquad \hat V = C'^{-1} V, \qquad W = U\,\mathrm{diag}(S)\,\hat V^\top$$

The last equation is exact: nothing of $W$ is lost. $U$ is orthonormal, $\hat V$ is not.
""",
        "adapters/context_svd.py",
        ("oriented_svd",),
    ),
    Maths(
        "Where the adapter starts",
        r"""
With $s = \alpha / r$, and $r$ components (the smallest for KPA, the largest for IPA):

$$B = U_r \sqrt{S_r / s}, \qquad A = \sqrt{S_r / s}\;\hat V_r^\top, \qquad W_{res} = W - s B A$$

PiSSA is the same for $C = I$ and the largest components. LoRA has $B = 0$, $W_{res} = W$. In all of them the network is
unchanged at the start, but only LoRA's $A$ has no gradient there.
""",
        "adapters/adapter_init.py",
        ("corda_init", "pissa_init", "lora_init"),
    ),
    Maths(
        "The layer",
        r"""
$$y = x W_{res}^\top + s\,(x A^\top) B^\top + b$$

$W_{res}$ and $b$ are frozen. After training $W_{res} + s B A$ is one matrix of the old size.
""",
        "adapters/lora_linear.py",
        ("LoRALinear.forward", "LoRALinear.merge"),
    ),
    Maths(
        "Discarding components",
        r"""
$$W_k = U_{R-k}\,\mathrm{diag}(S_{R-k})\,\hat V_{R-k}^\top, \qquad \|(W - W_k)\,C'\|_F^2 = \sum_{i > R-k} S_i^2$$

No other matrix of rank $R - k$ has a smaller weighted error (Eckart and Young). ASVD decomposes $W\,\mathrm{diag}(d)$,
with $d$ the root of the summed sizes of each input.
""",
        "adapters/context_svd.py",
        ("truncated_reconstruction",),
    ),
)

experiment_page("context-adapters", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
