"""Why did transformers end up with LayerNorm, and what must a batch statistic do to survive there?"""

from normviz.ui import Maths, experiment_page
from normviz.ui.corpus import corpus_widget

INTRO = r"""
A normalization layer rescales what flows through a network so that every channel keeps a similar size. The question is
**whose** mean and size it uses.

- **BatchNorm** takes them over all examples of the batch. That ties examples together, and since a single example must
  also work at test time, it remembers *running* statistics of the training batches and uses those instead.
- **LayerNorm** takes them over the channels of each token alone. Nothing is remembered; training and test are the same
  computation. This is what transformers use.
- **PowerNorm** asks why batch statistics failed in language at all. Its answer: the statistics of a text batch jump far
  more than those of an image batch, so the running ones mislead. It drops the mean, keeps only the *quadratic mean*
  $\psi^2 = \mathrm{E}[x^2]$, and already trains with the running value, with an approximate backward pass.
- **UnifiedNorm** goes on from there: the quadratic means of the last few batches are averaged *geometrically*, which
  one extreme batch hardly moves, and in its filtered form a step whose window looks abnormal falls back to its own
  batch. At test time it is one multiplication and one addition per channel, which fold into the next linear layer.

The same network is trained once per norm, on the same batches from the same initial weights. Grey bands are the range
over seeds.
"""

READING = r"""
**How to read it.** The chart of distances is PowerNorm's central picture: a batch statistic that strays far from its
running value was used in training but will not be there at test time. Compare the colours with the line *training mode
minus eval mode*: where batches stray, that difference opens. LayerNorm has no running statistics, hence no line on the
first and an exact zero on the second. The distance is divided by the running value itself, so that networks whose
activations differ in size can be compared; *The same in absolute units* is under *More charts*.

**Words and padding.** Translation models, in which batch norm failed first, read sentences of words that are filled up
to one length. The preset does so; padded places count for no statistic and no loss.

**Under *More charts*.** *Gradient in the input of a norm* is how steep the loss is there: its peak along the run is a
lower bound of the Lipschitz constant that PowerNorm's theorem speaks of. *Outliers in front of each norm* divides the
largest activation by the median one, layer by layer: UnifiedNorm's paper blames such outliers for the collapse of
batch statistics. In the preset *Recurrent network* the loss is also drawn against the arithmetic spent, since an update
with LayerNorm computes more.

**Beyond the presets.** Lower the batch size, or raise the learning rate until a norm diverges. In *Recurrent*, raise
the recurrent weight scale and watch the spread of the LSTM cell. In *Vision*, choose MNIST-1D or MNIST as the data.

**UnifiedNorm.** The preset *One image far too bright* trains vision transformers of six blocks and puts such an image
into every tenth batch. A chart marks the steps that the filter caught. *Offline EMA* remembers the image in its running
average; whether the geometric mean and the filter hold it back is what the claims judge.
After a language run every UnifiedNorm is folded into the next linear layer, and time and memory of the folded network
are measured against LayerNorm's.
"""

MATHS = (
    Maths(
        "LayerNorm",
        r"""
For the $H$ summed inputs $a$ of one case (one token, one time step):

$$\mu = \tfrac1H \sum_i a_i \qquad \sigma^2 = \tfrac1H \sum_i (a_i-\mu)^2$$

$$y = g \odot \frac{a-\mu}{\sqrt{\sigma^2+\varepsilon}} + b$$

Backward, with $u = g \odot dy$ and $z = (a-\mu)/\sqrt{\sigma^2+\varepsilon}$:

$$da = \frac{u - \overline{u} - z\,\overline{u z}}{\sqrt{\sigma^2+\varepsilon}}$$

Means are over the features of the case. No batch, no memory.
""",
        "norms/layer_norm.py",
        ("LayerNormFunction",),
        "the reference: the networks use PyTorch's kernel, which computes the same",
    ),
    Maths(
        "PowerNorm",
        r"""
With $\psi_B^2$ the mean of $x^2$ over the batch's real tokens, per channel, and $\phi$ its running value:

$$z = \frac{x}{\sqrt{D+\varepsilon}}$$

$$D = \begin{cases}\psi_B^2 & t \le \text{warm-up}\\ \phi_{t-1} & \text{after}\end{cases}$$

$$y = \gamma z + \beta \qquad \phi_t = \alpha\,\phi_{t-1} + (1-\alpha)\,\psi_B^2$$

Back-propagating through $\phi$ exactly would need every past batch. Instead a second running quantity $\nu$ stands in
for the batch mean of $u z$, with $u = \gamma\,dy$:

$$\tilde u = u - \nu z \qquad dx = \frac{\tilde u}{\sqrt{\psi_B^2+\varepsilon}}$$

$$\nu \leftarrow \nu\,(1-(1-\alpha)\,\overline{z^2}) + (1-\alpha)\,\overline{u z}$$
""",
        "norms/power_norm.py",
        ("PowerNormFunction", "PowerNorm._train_step"),
        "the formula",
    ),
    Maths(
        "PowerNorm-V",
        r"""
The same without the memory: the batch's own quadratic mean, with the exact gradient.

$$z = \frac{x}{\sqrt{\psi_B^2+\varepsilon}} \qquad dx = \frac{u - z\,\overline{u z}}{\sqrt{\psi_B^2+\varepsilon}}$$

Since $\psi_B^2 = \sigma_B^2 + \mu_B^2 \ge \sigma_B^2$, the gradient is never larger than batch norm's under the paper's
assumption.
""",
        "norms/power_norm.py",
        ("PowerNormV._train_step",),
    ),
    Maths(
        "UnifiedNorm",
        r"""
The quadratic means $\psi^2$ of the last $M$ batches are kept, and with GM and AM their geometric and arithmetic mean:

$$\hat\sigma^2 = \begin{cases}\psi_B^2 & \text{warm-up, or filtered}\\ \mathrm{GM} & \text{else}\end{cases}
\qquad z = \frac{x}{\sqrt{\hat\sigma^2+\varepsilon}} \qquad y = \gamma z + \beta$$

A step is filtered if in any channel the two means are further apart than $M$ times the spread $V$ of the window's
roots allows:

$$\mathrm{AM} - \mathrm{GM} > M\,V$$

Backward, with the mean of $u z$ over recent batches, smoothed once more, as $\bar q$ (a filtered step takes its own):

$$dx = \frac{u - \bar q\, z}{\sqrt{\hat\sigma^2+\varepsilon}}$$
""",
        "norms/unified_norm.py",
        ("_UnifiedNorm._statistics", "UnifiedNormFunction"),
        "the formula",
    ),
    Maths(
        "BatchNorm",
        r"""
Statistics over the rows (all tokens of all examples), per channel:

$$y = \gamma\,\frac{x-\mu_B}{\sqrt{\sigma_B^2+\varepsilon}} + \beta$$

in training, and with the running $\mu, \sigma^2$ at test time. The chart of distances shows
$\sum_c |\sigma^2_{B,c} - \sigma^2_c| \,/ \sum_c \sigma^2_c$ (and the same for the mean): how far the two are apart.
""",
        "norms/power_norm.py",
        ("statistics_gap",),
    ),
)

experiment_page(
    "normalization-statistics",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"corpus": corpus_widget},
)
