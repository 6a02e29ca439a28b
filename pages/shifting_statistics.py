"""What should batch statistics remember when the data change, in training or at test time?"""

from normviz.experiments.shifting_statistics.alpha_mixture import channel_figure, trade_off_figure
from normviz.experiments.shifting_statistics.batch_weights import played_weights_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_images_widget

INTRO = r"""
**Batch norm** sets every channel of a layer to mean 0 and variance 1. In training it measures mean and variance in the
batch; for testing it keeps a **running average** of them. That works as long as the data stay the same. This page shows
two ways in which they do not, and what the statistics should then remember.

**A shifted stream.** A network was trained on clean digits. At test time they are pale, noisy or blurred. The running
statistics (the *source*) no longer fit. One can take the statistics of each test batch instead (**TBN**), but a batch
of four digits is a poor sample, and one in which all digits are zeros misleads. **α-BN** mixes both: α is the weight
of the source, 1 is the source alone, 0 is TBN. **Core** in addition trains the gains and biases of the norms while it
predicts, without labels, so that different classes share as little probability as possible. Its rival, **entropy**,
asks each prediction to be sure of itself, and giving all images one answer is the cheapest way to be sure: it can
*collapse*. **TENT** is TBN with entropy. Labels are used to count right answers only.

**Tasks in a row.** A network learns to tell two digits, then the next two, and so on; every pair has its own light.
Some old digits are kept in a buffer and replayed beside the new ones (the learner is ER-ACE or DER++). Batch norm
leans to the newest task: in a batch, because most samples are new, and in the running average, because it forgets.
**AdaB²N** gives every task a learned weight in the batch, and one number, **κ**, says how long the running average
remembers: κ = 1 is batch norm's moving average, κ = 0 the average of all batches. **CN** (Continual Normalization)
first normalises each image by itself.

What is the papers' own? AdaB²N follows the official code. For α-BN and Core no code was found: the mixture is the
paper's, Core's loss is **our reconstruction**, and that α weighs the source is from memory (many later libraries
weigh the test batch).
"""

READING = r"""
**How to read it.** *The newest digits* stand above what every method reads in them: watch Core's row turn green along
the stream while entropy's becomes the same digit everywhere. *Accuracy so far, against α* tries every mixture: look for
a hill between both ends. *Error of the mixed mean* says why there is one: the source's mean is wrong in the same way in
every batch, a small batch's mean is wrong by chance, and a mixture has less of both. Drag α there. *Predicted classes*
and *Which classes share their probability* show a collapse before the accuracy tells it.

**Sort the digits, and the test batch misleads.** With noise sorted by label TBN falls far below the source: each
batch holds one or two classes, and normalising by it takes away what the class is told by. With a strong change of
contrast and large shuffled batches it is the other way round: there TBN is hard to beat, and α = 0.7 or 0.9 is far
too much source. *All corruptions* runs through twenty-four such cells. α is chosen on other seeds than the one it is
judged on, since the best of several is always favoured on its own stream. Core also pushes classes to appear that a
sorted batch does not have.

**Tasks in a row: where κ helps and where not.** *Running mean: distance to all tasks* jumps when a new task begins.
Without replay (add *BN, no replay*) the moving average takes about ten steps to move over to the new task, and then
stands there. With replay half of every batch is old, so that no running mean strays far: with frozen weights κ hardly
matters. While the network learns, old statistics go *stale*: they describe weights that are gone, and the more so the
deeper the layer (see *Distances* among the further charts); an average of all batches then stays farthest away. κ is a
trade-off. *What the running mean is made of* shows the weight of every past batch; drag κ. *The batch* shows how many
samples each digit counts for: AdaB²N lifts tasks of which few samples were drawn.

**How far it carries.** On 130 short steps the accuracies of batch norm and AdaB²N differ by little; the claims give one
verdict for each change of light and each κ, never the best of a sweep. A digit's light tells its task here, which makes
the tasks easier to tell apart, and CN removes just that. Not tested: the papers' own data (Split CIFAR and
Mini-ImageNet; corrupted ImageNet, domain generalisation and street scenes).
"""

EXACT = Exact(
    "Mixtures, exactly",
    r"""
Three closed forms, computed in the browser while you drag.

**One channel.** The source has mean 0 and deviation 1, the test batch mean $b$ and deviation $s$. α-BN normalises by
mean $(1-\alpha) b$ and variance $\alpha + (1-\alpha) s^2$. At $\alpha = 0$ the shift is gone, at $\alpha = 1$ nothing
happens.

**Why the middle can be best.** The source's mean is wrong by $b$ in every batch, a batch of $n$ values by a random part
of variance $1/n$. The mean square error of the mixture is $\alpha^2 b^2 + (1-\alpha)^2 / n$, least at
$\alpha = 1/(1 + n b^2)$: the smaller the batch, the more source. There it is below both ends.

**The memory of the running mean.** With $a = (1-m)^\kappa$, the batch that came $k$ batches before the newest has a
weight proportional to $a^k$. The numbers above the bars are the shares of the tasks.
""",
    lambda: {
        "channel": channel_figure(),
        "trade_off": trade_off_figure(),
        "memory": played_weights_figure(),
    },
)

MATHS = (
    Maths(
        "α-BN",
        r"""
Source statistics $\mu_s, \sigma_s^2$ (never changed), those of the test batch $\mu_t, \sigma_t^2$:

$$\mu = \alpha\,\mu_s + (1-\alpha)\,\mu_t \qquad \sigma^2 = \alpha\,\sigma_s^2 + (1-\alpha)\,\sigma_t^2$$

$$y = \gamma\,\frac{x-\mu}{\sqrt{\sigma^2+\epsilon}} + \beta$$

Read as counting samples, $\alpha = N_0/(N_0+n)$: the source counts like $N_0$ samples beside the $n$ of the batch.
""",
        "norms/alpha_bn.py",
        ("mix_stats", "_AlphaBatchNorm.forward", "_AlphaBatchNorm._statistics"),
    ),
    Maths(
        "Core (reconstructed)",
        r"""
Predictions $P$ (B × C) of a batch, $A = P^\top P$: how much probability classes $i$ and $j$ share. With $r_i = \sum_n
p_{ni}$ and $q_i = \sum_n p_{ni}^2$:

$$L = \frac1C \sum_i \sum_{j\ne i} \frac{A_{ij}}{r_i} = \frac1C \sum_i \frac{r_i - q_i}{r_i}$$

Sure and varied answers cost 0. If all images get one answer, every other class keeps a little mass, all of it shared,
and costs $1/C$: collapse costs $(C-1)/C$, where its entropy is 0. Without the division by $r_i$ this is the mean Gini
impurity, which rewards collapse as entropy does: set *Core's normalisation* to none.
""",
        "adaptive/core_loss.py",
        ("CoreLoss.forward", "class_correlation"),
    ),
    Maths(
        "Adapting online",
        r"""
For each batch: predict with the present gains and biases, **return these predictions**, then take one Adam step on
the loss of the logits. So no prediction depends on its own batch's step. Only $\gamma$ and $\beta$ of the norms
learn; the running statistics stay.
""",
        "adaptive/online_adapter.py",
        ("OnlineAdapter.__call__", "OnlineAdapter._step"),
    ),
    Maths(
        "AdaB²N in a batch",
        r"""
$N_t$ samples of task $t$, a learned number $\psi_t$ for each task seen so far:

$$\pi_t = \frac{e^{\psi_t} + N_t}{\sum_s (e^{\psi_s} + N_s)} \qquad w_n = \frac{\pi_{t_n}}{N_{t_n}}$$

$$\mu = \sum_n w_n x_n \qquad v = \sum_n w_n (x_n - \mu)^2$$

$e^{\psi}$ counts imaginary samples: at $\psi \to -\infty$ it is plain batch norm, for large equal $\psi$ all tasks
weigh alike. $\psi$ learns with the rest, through $\mu$ and $v$.
""",
        "norms/_task_posterior.py",
        ("posterior_mean", "sample_weights"),
    ),
    Maths(
        "AdaB²N's running statistics",
        r"""
$$\eta_0 = m^\kappa \qquad \eta_t = \frac{\eta_{t-1}}{\eta_{t-1} + (1-m)^\kappa}$$

$$\hat\mu \leftarrow (1-\eta_t)\,\hat\mu + \eta_t\,\mu$$

κ = 0 gives $\eta_t = 1/(t+1)$, κ = 1 gives $m$ for ever. After $T$ batches, batch $s$ weighs $a^{T-1-s}\,\eta_{T-1}$
with $a=(1-m)^\kappa$. The balance loss $\lVert\mu-\hat\mu\rVert^2 + \lVert v-\hat v\rVert^2$ (means over channels),
times λ, is added on steps with replay.
""",
        "norms/adab2n.py",
        ("_AdaptiveBalanceBatchNorm._advance", "_AdaptiveBalanceBatchNorm._next_eta"),
    ),
    Maths(
        "Rehearsal",
        r"""
One step on the new samples and the replayed ones **in one forward**, so that the norms see the mixture. ER-ACE takes
the loss of the new samples over the classes of the batch and those not seen yet only, so that new classes do not push
old ones away:

$$L = \mathrm{CE}_{\text{masked}}(\text{new}) + \mathrm{CE}(\text{replayed}) + \lambda \sum_{\text{layers}}
L_{\text{balance}}$$

The buffer is a uniform sample of the stream so far (reservoir).
""",
        "adaptive/continual.py",
        ("ERACE._loss", "er_ace_mask"),
    ),
)

experiment_page(
    "shifting-statistics",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_images_widget},
    exact=EXACT,
)
