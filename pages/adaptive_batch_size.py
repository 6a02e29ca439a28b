"""When is a gradient too noisy, and how much larger should the batch become?"""

from normviz.experiments.adaptive_batch_size.exact_curves import five_tests_figure, staircase_figure
from normviz.experiments.adaptive_batch_size.exact_fan import exact_fan_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_rows_widget

INTRO = r"""
Training takes its gradient from a **batch** of samples. A small batch gives a noisy gradient, but many steps for the
same number of samples. A large one gives a clean gradient and few steps, each of which keeps parallel hardware busy.
Early in training all samples pull the same way, and a few are enough. Later the common part shrinks, the noise stays,
and the steps become a random walk.

AdAdaGrad lets the batch grow by itself. Before every step it looks at the gradient $g_i$ of **each sample** of the
batch: their mean is $g$, their variance, summed over all coordinates, is $\|V\|_1$. The mean of $b$ samples is wrong by
about $\sqrt{\|V\|_1 / b}$. The **norm test** asks that this be at most a share $\eta$ of the gradient's own length:

$$\frac{\|V\|_1}{b} \le \eta^2 \|g\|^2$$

If not, the next batch gets the size with which the test would have passed. The batch never shrinks. The steps
themselves are those of **AdaGrad** (a step size for each coordinate) or **AdaGrad-Norm** (one for all), which find
their own length; nothing is rescaled when the batch grows.

Arms of this page:

- **Constant small** and **Constant large**: AdaGrad-Norm with the first and with the largest batch size.
- **AdAdaGrad-Norm** and **AdAdaGrad**: AdaGrad-Norm and AdaGrad whose batch grows by the norm test.
- **AdAdaGrad, coordinates**: the test of the paper's theory, in which every coordinate must pass by itself.
- **AdAdaGrad-Norm, augmented**: noise along the gradient and noise across it are tested apart.

All see **the same samples in the same order**, and everything is counted in samples: steps of different arms are not
comparable.
"""

READING = r"""
**The staircase.** Every line is a batch size. It rises when the test fails, and never falls. Between two steps up the
batch was large enough. *The norm test's two sides* shows why: the dashed line is what is allowed, $\eta^2\|g\|^2$,
which falls with the gradient; the solid line is the noise of the mean. Where solid is above dashed the batch grows, and
the solid line falls in turn. The lines end where the batch has its largest size: nothing is tested there any more.

**The arrows.** *Gradients of one batch* shows up to 64 samples of a batch that is drawn at the moment shown. The thick
arrow is their mean $g$; everything is in units of its length. Lengths, angles to $g$ and distances to its tip are true;
up or down says only on which side of the strongest direction across $g$ a sample lies. Arrows that are longer than the
picture are cut. In 50 dimensions nearly all of a sample's gradient points *across* the mean, so most arrows stand
upright; in *Two numbers* they are the picture itself, turned. The coloured dots are the same samples, pulled towards
the tip by $\sqrt b$: so far does a mean of $b$ samples stray. The orange circle is their root mean square distance,
the green one what the test allows. As the mean becomes shorter, arrows become longer in units of it, and only a large
batch keeps the orange circle small.

**By samples and by steps.** *By samples* the arms are close together: all look at the same data. *By steps* they are
far apart. A growing batch takes as few steps as a large one late in training, and as many as a small one early.

**Why the staircase has many steps.** The usual test does not know the true gradient, and takes the batch's own. That
one is longer than the true one by its noise: $E\|g\|^2 = \|\nabla F\|^2 + \|V\|_1/b$. So the test asks for at most
about $1/\eta^2$ times the present size, however noisy the gradient. *Two numbers* has a problem in which the exact test
is known: *The usual test and the exact one* shows both. With $\eta = 1$ the usual test passes on average, and the batch
grows by chance alone, since it never shrinks: each unlucky batch is a step up. The theory asks for $\eta < 1$.

**What does not work.** *Coordinates*: one coordinate whose mean is nearly zero is enough to ask for an endless batch,
so this test has the largest size within the first steps. *Leave out the worst* takes the 80 % quantile instead, which
is not the paper's. *The public code's η* is 0.1: it asks for a hundred times the ratio of noise and gradient, which is
fine for millions of samples and too much for 20,000. *A network on digits* can fit all of its samples, so that noise
vanishes with the gradient and small steps do no harm: for the same number of samples many small steps win there. Take
*MNIST-1D* or *MNIST* as its data, which are harder to fit.

**What it costs.** The gradient of each sample is needed as long as the batch may grow. `normviz.adaptive` has forms
that need less: means of micro-batches, or the moments of the shards of several devices, pooled exactly.
"""

EXACT = Exact(
    "Drag the test",
    r"""
Three pictures that react while you drag; nothing is run.

**One batch.** Gradients with a common part of length 1 and noise. The green circle has the radius $\eta\|g\|$; from the
origin it fills a cone of the half angle $\arcsin\eta$. The orange circle is the error of the mean. Make $\eta$ small,
or the noise large: the batch must grow until orange fits into green.

**The staircase at one point.** The usual test climbs, on average, in steps of at most $1/\eta^2$ times the present size
and stops at $R(1-\eta^2)/\eta^2$. The exact one goes to $R/\eta^2$ at once.

**Five tests.** The same noise, judged by all of them.
""",
    lambda: {"fan": exact_fan_figure(), "staircase_theory": staircase_figure(), "five": five_tests_figure()},
)

MATHS = (
    Maths(
        "The norm test",
        r"""
$g_i$ is the gradient of sample $i$ at the parameters *before* the step, $g = \frac1b \sum_i g_i$, and $V_j$ the
variance of coordinate $j$ with the divisor $b - 1$:

$$\text{exact: } E\|g - \nabla F\|^2 \le \eta^2 \|\nabla F\|^2$$

$$\text{usual: } \frac{\|V\|_1}{b} \le \eta^2 \|g\|^2 \qquad s = \frac{\|V\|_1}{\eta^2 \|g\|^2}$$

The batch passes if $s \le b$; otherwise $s$, rounded up, is the size that is asked for.
""",
        "adaptive/batch_size_tests.py",
        ("norm_test", "norm_ratio"),
    ),
    Maths(
        "The other tests",
        r"""
With $r_i = g_i - \frac{\langle g_i, g\rangle}{\|g\|^2} g$, the part of $g_i$ across $g$:

$$s_{\text{inner}} = \frac{\mathrm{Var}_i\langle g_i, g\rangle}{\theta^2\|g\|^4} \qquad
s_{\text{orth}} = \frac{\|\mathrm{Var}_i\, r_i\|_1}{\nu^2\|g\|^2} \qquad
s_{\text{coord}} = \max_j \frac{V_j}{\eta^2 g_j^2}$$

The augmented test takes the larger of the first two. $\|V\|_1 = \mathrm{Var}_i\langle g_i, g\rangle/\|g\|^2 +
\|\mathrm{Var}_i\, r_i\|_1$, so that the norm test sees the sum of both. The public code computes the inner products
tensor by tensor and leaves out what tensors have in common; that is the switch *Inner products by tensor*.
""",
        "adaptive/batch_size_tests.py",
        ("inner_product_test", "orthogonality_test", "augmented_ratio", "coordinatewise_norm_test"),
    ),
    Maths(
        "The rule",
        r"""
$$b_{k+1} = \min\big(\max(b_k, \lceil s_k \rceil),\ b_{\max}\big)$$

A test is made at every `test_interval`-th step until $b = b_{\max}$; the new size holds from the next step. A batch of
one sample has no variance and is refused. The sampler reads the size before each batch, and a remainder of one sample
joins the batch before it.
""",
        "adaptive/adaptive_batch_size.py",
        ("AdaptiveBatchSize.step", "GrowingBatchSampler.__iter__"),
    ),
    Maths(
        "One gradient for each sample",
        r"""
All $g_i$ of a batch at once: the gradient of one sample's loss as a function of parameters and sample, mapped over the
samples. Batch norm in training mode mixes samples and is refused.
""",
        "adaptive/per_sample.py",
        ("per_sample_gradients",),
    ),
    Maths(
        "AdaGrad-Norm and AdaGrad",
        r"""
One accumulator for all parameters, or one for each:

$$a_k = a_{k-1} + \|g_k\|^2, \quad x_{k+1} = x_k - \frac{\alpha\, g_k}{\sqrt{a_k} + \varepsilon} \qquad
a_k = a_{k-1} + g_k \odot g_k, \quad x_{k+1} = x_k - \frac{\alpha\, g_k}{\sqrt{a_k} + \varepsilon}$$

The second is `torch.optim.Adagrad`. The public code's scalar method is none: it keeps one accumulator for each row of
a matrix; here that is `scope="row"`.
""",
        "optim/adagrad_norm.py",
        ("AdaGradNorm.step", "AdaGradNorm._global_step"),
    ),
    Maths(
        "Test and step together",
        r"""
The test sees the same samples as the step, at the point before it.
""",
        "optim/adadagrad.py",
        ("_WithBatchSize.step", "AdAdaGradNorm", "AdAdaGrad"),
    ),
    Maths(
        "Without samples' gradients",
        r"""
$K$ micro-batches of $m$ samples with the mean gradients $G_k$ give $\hat V = m\, \mathrm{Var}_k(G_k)$. Shards with
counts $n_k$, means $G_k$ and variances $V_k$ are pooled exactly:

$$g = \frac1N \sum_k n_k G_k, \qquad V = \frac{1}{N-1} \Big[\sum_k (n_k - 1) V_k + \sum_k n_k (G_k - g)^2\Big]$$
""",
        "adaptive/gradient_moments.py",
        ("combine_moments", "variance_from_microbatches"),
        "the formula",
    ),
)

experiment_page(
    "adaptive-batch-size",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_rows_widget},
    exact=EXACT,
)
