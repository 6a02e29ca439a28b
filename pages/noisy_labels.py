"""Can a network learn which of its own labels to trust?"""

from normviz.ui import Maths, experiment_page

INTRO = r"""
Labels are made by people, rules or other models, and some are wrong. A network first learns what most labels agree
on, and later, sample by sample, the mistakes too: it **memorises** them. If each wrong label counted less in the
training loss, this would not happen. But nobody says which labels are wrong.

**STORM** lets the training find out by itself. Beside the network grows a tiny second network, the *rescaler*. It
sees what the network itself thinks of a sample: how large its loss is, how sure the network is, how much it wavers
when dropout switches off different units. From this it makes the sample's **weight**. And it learns from one
question, asked at every step: *had the weights of this update been a little different, would a second batch now have
a smaller loss?* That second batch comes from the same noisy data, so it is weighted by the rescaler too. No clean
data are needed.

The methods beside it: **Plain** training; **Small-loss**, which throws out the highest losses of each batch
and has to be told how many labels are wrong; **MW-Net** fed with noisy data, which sees only the loss and believes
its second batch; and an **Oracle** that knows the wrong labels, the best one can hope for. All start from the same
network and see the same batches. Test labels are always right.

How much of this is the paper's? Its text and code were not at hand in full. The loop, the kind of features and the
two gradients are the paper's; the exact features, the shape of the rescaler, the balance of the two gradients and the
burn-in are **our reconstruction**.
"""

READING = r"""
**How to read it.** During the *burn-in* STORM trains exactly as Plain does, while its rescaler already learns: the
weights part although they are not used yet. When it ends, STORM's accuracy leaves Plain's. *What STORM trusts least*
shows the samples themselves: compare picture and label. *The learned rescaling* shows why they lose: weight goes
where the network agrees with the label, and little is left where it is sure of another class. A wrong label is one that
most similar samples contradict. With an outer scale of 0.1 or more, *Mean weight by true class* stands among the first
charts: a few classes may then take all the weight.

**Look at the seeds.** Choose *Next class* as the kind of noise: at 40 % one seed may win and the next one lose. At 60 %
most labels of every class are wrong in the same way, and to trust the majority is to trust mistakes. The bands say more
than the lines. Choose *Text*: there STORM becomes too sure of itself, which *Calibration error* shows. If you add
*L2RW*, lower the learning rate to 0.1: it puts the weight of a batch on few samples. Choose *MNIST-1D* or *MNIST* as
the data: with more samples and larger inputs, are the same ones mistrusted?

**What cannot be shown here.** The paper fine-tunes language models on spam, paraphrase and acceptability data and,
for the first time, a dialogue state tracker (TripPy on MultiWOZ 2.4). Neither fits on this page. The overhead depends
on the size of the network: on a small one Python's own time dominates. So operations are counted beside the time, and
the width can be raised.
"""

MATHS = (
    Maths(
        "Rescaled loss",
        r"""
Network $\Theta$ with losses $l_i(\theta)$, rescaler $\Omega$, batch of $n$, features $F_i$:

$$s_i = \sigma\big(W_2 \tanh(W_1 F_i + b_1) + b_2\big)$$

$$w_i = \frac{n\, s_i}{\sum_j s_j}$$

$$L_{\text{in}}(\theta, \omega) = \frac1n \sum_i w_i(\omega)\, l_i(\theta)$$

$$\theta' = \theta - \eta\, \nabla_\theta L_{\text{in}}$$

All weights start at 1 ($W_2 = b_2 = 0$). Their mean stays 1: otherwise the cheapest way to a small loss would be to
trust nobody.
""",
        "weighting/storm_rescaler.py",
        ("LossRescaler.raw", "LossRescaler.forward"),
    ),
    Maths(
        "Features",
        r"""
From $G$ passes with dropout, $p^{(g)}$ the probabilities of pass $g$, $p$ their mean, $y$ the given label:

| | |
|---|---|
| $f_1 = 1 - \exp(\tfrac1G \sum_g \log p^{(g)}_y)$ | loss |
| $f_2 = p_y$, $f_3 = \max_c p_c$ | confidence |
| $f_4 = H(p) / \log C$ | entropy |
| $f_5 = (1 + p_y - \max_{c \ne y} p_c)/2$ | margin |
| $f_6 = \mathrm{std}_g\, p^{(g)}_y$ | disagreement |
| $f_7 = [\arg\max p = y]$ | agrees with the label |

The paper names loss, confidence and uncertainty; this list is ours.
""",
        "weighting/storm_features.py",
        ("_features", "_only_dropout"),
    ),
    Maths(
        "Two gradients",
        r"""
A second batch of the same noisy data, at the *updated* $\theta'$:

$$L_{\text{out}}(\omega) = \frac1{n'} \sum_j w_j^{\text{val}}(\omega)\, l_j\big(\theta'(\omega)\big)$$

$\omega$ acts in two ways. **Through the update** (meta part):

$$\frac{\partial L_{\text{out}}}{\partial w_i} = -\frac{\eta}{n}
\big\langle \nabla l_i(\theta),\ \nabla_{\theta'} L_{\text{out}} \big\rangle$$

A sample gains weight when its gradient points where the second batch wants to go. **Through the weights of the second
batch** (outer part), which simply prefers small losses:
$\frac1{n'} \sum_j l_j(\theta')\, \partial_\omega w_j^{\text{val}}$.

All $n$ inner products come from one forward-mode pass: no second-order graph.
""",
        "weighting/storm.py",
        ("STORM._meta_update",),
    ),
    Maths(
        "One step",
        r"""
1. features of the batch at $\theta$, weights, update $\theta \to \theta'$ (in the burn-in: with weights 1);
2. features and losses of the second batch at $\theta'$;
3. update $\omega$ with meta part + outer scale × outer part.

Cost in forward passes, a backward pass counted as two, a forward-mode pass as two: plain training 3; STORM $3$ (update)
$+\,2G$ (features of two batches) $+\,3$ (second batch) $+\,2$ (inner products) $= 8 + 2G$, or 16 for $G = 4$.
With one hidden layer the backward pass costs little more than a forward pass, since nothing is propagated to the
inputs: the factor over plain training that *Arithmetic of an update* counts is larger than $16/3$.
""",
        "weighting/storm.py",
        ("STORM.step", "STORM._inner_step"),
    ),
    Maths(
        "Wrong labels",
        r"""
Exactly $\mathrm{round}(\text{rate} \cdot n)$ labels are flipped, never to the true class.

- **Symmetric**: a random subset, to any other class. **Next class**: to $(y+1) \bmod C$. **Asymmetric**: each class has
  its own law over the others, drawn from a Dirichlet(1) distribution.
- **Instance-dependent** (ours): with $m_c$ the mean of class $c$ and $s^2$ the mean squared distance of a sample to its
  own class's mean, $q_i = \mathrm{softmax}_c(-4 \lVert x_i - m_c \rVert^2 / s^2)$. Samples are flipped with probability
  proportional to $1 - q_{i,y}$, to a class drawn from $q_i$.
""",
        "weighting/noisy_labels.py",
        ("inject_label_noise", "inject_instance_noise"),
    ),
)

experiment_page("noisy-labels", intro=INTRO, reading=READING, maths=MATHS)
