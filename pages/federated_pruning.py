"""How is a network pruned for data that no server ever sees?"""

from normviz.experiments.federated_pruning.exchange_curves import exchange_figure, format_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_images_widget

INTRO = r"""
In **federated learning** many devices train one network, and their data stay where they are. In every *round* each
device trains a copy on its own data for an epoch or more, and a server averages the copies. Devices are small: the
network should be **pruned**, that is, most of its weights held at zero, before they ever train it.

But which weights? The server has no data that look like the devices', and one device's data are not like another's.
**FedTiny** answers in two parts.

1. **Selection.** The server makes several coarsely pruned candidates. Their losses say little at first: the batch
   norms still hold the mean and variance of other data and of the unpruned network. So each device passes a few of its
   samples through every candidate, the server averages the **statistics** it finds, and only then are losses compared.
   No device trains for this, and no data leave it.
2. **Progressive pruning.** The mask may still be wrong, so it moves while training goes on. In every third round
   **one** layer is adjusted: the weakest weights leave, and others enter where the loss asks for them most. To learn
   where, a device would need the gradient of every pruned weight. FedTiny has it keep only the **largest few**, in a
   buffer of fixed size, and send these.

The network here has 14,458 parameters for 8 × 8 digits, the server has 100 public samples and the rest belongs to ten
clients with different digits (Dirichlet, as is usual in the field). At a density of 0.042 a device keeps 3 % of the
weights that can be pruned: 434 of 14,288.
"""

READING = r"""
**How to read it.** *The weights that are left* is the network itself. A convolution is a table of 3 × 3 kernels, one
column of kernels for each output channel, one row for each input channel; the head has a column for each digit. Green
weights have just entered, red ones have just left. A click on another arm in the legend shows that one's masks. Move
the slider back and forth: only one layer changes at a time, from the head to the input.

*Loss of each candidate* fills before training begins. Grey: with the server's statistics; blue: with those of the
clients. What is ringed has the lowest mean loss. The dashed line is the loss of a guess, ln 10: after one epoch on 100
pictures the server knows little, pruning takes the rest, and the candidates hardly differ. Raise *Server's epochs* and
*Density* to give the selection something to see.

**The first convolution.** With *uniform* densities it has 4 of 144 weights. A fifth of four is less than one, so it is
never adjusted, and whatever the four weights do not see is lost to all later layers; the head has nine weights for ten
digits. *Weights exchanged* (under *More charts*) shows the zeros, and the tab *By hand* shows for which settings they
go away. With *ERK* both small layers keep nearly everything. This is why methods that rank the weights of all layers
together, such as SynFlow, can do better here: the comparison says little about networks with millions of weights.

**Costs** are counted, not timed, by a convention that is stated under *Maths and code*: operations and memory of the
most expensive round, bytes of all rounds so far. FedTiny's selection is paid in its first round. A method that needs
dense gradients, such as PruneFL, holds four bytes for every weight, pruned or not.

**Who wins here.** SynFlow, by far, probably for the reason above. FedDST is better than FedTiny too: its clients
adjust all layers at once and train on before the server looks. PruneFL may replace many weights at once, and what
enters starts at zero. The order of the blocks decides how much of a layer is exchanged: the share falls from round to
round, and with few rounds the layers that come first have most of it.

**Noise.** With ten clients of different digits the average jumps from round to round. Verdicts average the last three
rounds, and five seeds still leave intervals of many points.

**What cannot be shown here.** The paper prunes ResNet-18 and VGG-11 down to 1 % on CIFAR-10 and other image sets with
up to 300 rounds; its figures (+2.61 % accuracy, −95.91 % computation, −94.01 % memory) compare with other methods
there. They are not reproduced here, only signs and orders of magnitude are compared. The authors' repository collects
the wrong parameters of the norms in its selection; here the statistics are taken, as the paper says.
"""

EXACT = Exact(
    "By hand",
    r"""
In round $r$ a layer with $n_l$ active weights exchanges
$a_l = \lfloor \tfrac{\alpha}{2}\,(1 + \cos \tfrac{\pi r}{R}) \, n_l \rfloor$ of them, at most. At uniform densities
$n_l$ is the same share of every layer, so small layers have few weights, and a share of few is soon less than one.

Raise the share exchanged until the first convolution takes part: which share does it need at a density of 0.042? On
the right: how many bytes a weight costs in memory. Below a share of 1/32 it is cheapest to store values with their
indices.
""",
    lambda: {"exchange": exchange_figure(), "formats": format_figure()},
)

MATHS = (
    Maths(
        "Selection",
        r"""
Candidate $c$ has the layer densities $d_l = \mathrm{clip}(b_l + e_l,\ 1/n_l,\ 1)$, $b_l$ those of the rule,
$e_l \sim U(-\nu b_l, \nu b_l)$, scaled down to the budget where they exceed it, and keeps the largest weights of each
layer.

Client $k$ resets the statistics of all batch norms and passes $n_k$ of its samples through the candidate. The server
averages

$$\mu = \sum_k p_k \mu_k, \qquad v = \sum_k p_k v_k, \qquad p_k = n_k / \textstyle\sum_j n_j,$$

the clients load $\mu, v$ and send back one loss each; the candidate with the lowest mean loss is the start of
training. *Vanilla selection* leaves out the statistics.
""",
        "federated/selection.py",
        ("client_bn_stats", "aggregate_bn_stats", "AdaptiveBNSelection.evaluate"),
    ),
    Maths(
        "A round",
        r"""
Every client trains $E$ epochs of SGD from the global weights $\theta \odot m$; the mask $m$ is part of the product, so
gradients of inactive weights are zero too. The server averages everything, running statistics included:

$$\theta = \sum_k p_k \theta_k, \qquad p_k = N_k / \textstyle\sum_j N_j .$$

All clients share $m$, so the average is as sparse as they are.
""",
        "federated/fedavg.py",
        ("train_client", "fedavg"),
    ),
    Maths(
        "Adjusting a layer",
        r"""
In round $r$ layer $l$ exchanges $a_l = \lfloor \tfrac{\alpha}{2} (1 + \cos \tfrac{\pi r}{R}) n_l \rfloor$ weights:

1. client $k$ takes the gradient of *inactive* weights on one mini-batch and uploads the $a_l$ largest with their
   indices, from a buffer of that size;
2. the server averages what came, $\bar g = \sum_k p_k g_k$, with 0 where a client sent nothing;
3. the $a_l$ inactive positions with the largest $|\bar g|$ enter at 0, the $a_l$ smallest of the weights that were
   active before leave.

The number of weights stays. Which layer has its turn goes round from output to input.
""",
        "federated/progressive.py",
        ("TopKBuffer.push", "aggregate_topk", "prune_and_grow"),
    ),
    Maths(
        "Layer densities",
        r"""
Of all $P$ parameters $\lfloor d P \rfloor$ stay, the $P_0$ dense ones (norms, biases) among them:
$\rho = (\lfloor dP \rfloor - P_0)/(P - P_0)$.

| rule | density of layer $l$ |
|---|---|
| uniform | $\rho$ |
| ER | $\propto (n_{in} + n_{out}) / (n_{in}\, n_{out})$ |
| ERK | $\propto$ (sum of the shape) / (product of the shape) |

For ER and ERK layers that would exceed 1 are made dense, and the others are scaled again.
""",
        "federated/budget.py",
        ("layer_densities", "cosine_adjust_fraction"),
    ),
    Maths(
        "Counting costs",
        r"""
Our convention, for a client with the mean number of samples $N$:

- **Operations**: 2 per multiply-accumulate; a convolution has (active weights) × (output positions), the head its
  active weights; training $3 \cdot 2 \cdot \mathrm{MAC} \cdot N E$. An adjustment adds
  $2\,(\mathrm{MAC}_{dense} - \mathrm{MAC}_{sparse})$ of the layers concerned, per sample of its batch. Norms and
  activations are not counted. Shown: the most expensive round over a dense one.
- **Memory** of a tensor with $n$ entries, $z$ of them active: $\min(4n,\ \lceil n/8 \rceil + 4z,\ 8z)$ bytes, for
  weights and for gradients, plus 8 bytes per pair in the buffer. Dense gradients cost $4n$.
- **Bytes sent**: 4 per active weight, other parameter and running statistic, each way; 8 per uploaded pair; new masks
  as bitmaps; the selection's statistics and losses. Shown: all rounds so far over as many dense ones.
""",
        "federated/accounting.py",
        ("sparse_bytes", "model_macs", "device_memory", "communication_bytes"),
    ),
)

experiment_page(
    "federated-pruning",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_images_widget},
    exact=EXACT,
)
