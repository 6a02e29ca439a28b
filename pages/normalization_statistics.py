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

The same network is trained once per norm, on the same batches from the same initial weights. Grey bands are the range
over seeds.
"""

READING = r"""
**How to read it.** The chart of distances is PowerNorm's central picture: a batch statistic that strays far from its
running value was used in training but will not be there at test time. Compare the colours with the line *training mode
minus eval mode*: where batches stray, that difference opens. LayerNorm has no running statistics, hence no line on the
first and an exact zero on the second.

**What to try.** Switch on *Sort batches by topic*: consecutive batches then come from one topic, and every batch
statistic jumps. Lower the batch size. Raise the learning rate until a norm diverges. In *Vision*, compare each norm
with its small-batch twin. In *Recurrent*, raise the recurrent weight scale and watch the spread of the LSTM cell.
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
        "norms/_layer_norm_core.py",
        ("LayerNormFunction",),
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
        "BatchNorm",
        r"""
Statistics over the rows (all tokens of all examples), per channel:

$$y = \gamma\,\frac{x-\mu_B}{\sqrt{\sigma_B^2+\varepsilon}} + \beta$$

in training, and with the running $\mu, \sigma^2$ at test time. The chart of distances shows
$\tfrac1C\sum_c |\sigma^2_{B,c} - \sigma^2_c|$ (and the same for the mean): how far the two are apart.
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
