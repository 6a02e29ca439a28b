"""How often may the same holdout be asked before its answers lie?"""

from normviz.experiments.adaptive_data_analysis.closed_forms import (
    privacy_figure,
    report_figure,
    rows_needed_figure,
)
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.panels.adaptive_data_analysis import analyst_panel

INTRO = r"""
A **holdout** is data that were kept aside, to say honestly how good a model is. It does so once. Who looks at the
answer, changes the model and asks again begins to fit the model to the holdout, without ever training on it. This is
*adaptive* data analysis: questions that depend on earlier answers.

The page has an **analyst** who asks and a **mechanism** that stands between the analyst and the data:

- **Plain reuse** answers with the mean on the holdout, every time.
- **Sample splitting** uses fresh rows for every question. Valid, but the rows run out.
- **Laplace** and **Gaussian noise** add noise to every answer. What is differentially private cannot depend much on
  single rows, so what the analyst finds holds for the population too: noise makes answers *more* valid.
- **Thresholdout** keeps a training set beside the holdout. It answers with the mean on the training set, and looks at
  the holdout only where the two differ by more than $T$. Only then it pays, from a budget.
- **PMW** (private multiplicative weights) keeps a guess of the whole distribution and corrects it where it was wrong;
  **Median** keeps a list of candidates and strikes out half of them. Both need a small, finite universe.

In the first preset there is nothing to find: features and labels are independent coin flips, every classifier is right
in 50 % of the cases. The analyst asks one harmless question per feature, *how often does it agree with the label?*, and
then lets all features vote in the direction of their answers.
"""

READING = r"""
**How to read it.** *What the holdout says* is what the analyst would publish: the mechanism's own answer to the
question how good the vote is. The dashed lines are theory, computed from the number of rows and questions alone.
Plain reuse reports 79 % after as many questions as there are rows, of labels that are coin flips. *Votes for each
row's right label* shows why: on fresh rows the votes balance, on the rows that were asked every feature carries a
trace of each row, and 2,000 traces move the whole hill. With Thresholdout the training rows move instead, and the
holdout stays clean.

**Single answers are not the problem.** *Largest error of a single answer* stays below 5 points for plain reuse: that
is Hoeffding's inequality, and these questions could have been fixed beforehand. Noise makes single answers five times
worse and the vote much better. Sample splitting at one row per question answers 0 % or 100 %, and after 1,000 questions
its rows are used up: its line ends.

**Budget.** Where a mechanism counts, *Budget spent* shows it. In *A budget that runs out* Thresholdout's reports end in
the middle of the run: this is what a reader should see, and the honest outcome. In *A small universe* noise in its test
makes Median strike out good candidates until none is left.

**What does not work.** With twenty true features the analyst publishes the classifier with the highest report. At
2,000 rows Thresholdout's threshold, 4/√n, is four times the noise of a correlation: it lets the overfitting of the
first features pass, and what the analyst chooses is about five points worse on fresh data than with the standard
holdout. The paper has 10,000 rows. And in *Tuning by hill climb* no mechanism helps: Thresholdout's guess, the
training accuracy, is far above the holdout's for every configuration, so nearly every answer comes from the holdout,
with noise, and the luckiest one is kept. Random search on the same rows overstates less: it never builds on an
answer.

**What theory promises is less than what is seen.** Its constants make the bounds useless for thousands of rows: drag
the rows in the tab *Formulas and a game* until the privacy spent falls below the dotted line.
"""

EXACT = Exact(
    "Formulas and a game",
    r"""
The charts follow their sliders while you drag; nothing is run. Below them you are the analyst yourself.

Solid lines on the second chart are exact (Hoeffding's inequality). The others have the paper's exponents and constants
of 1: read their slopes, not their heights. The years mark later, better bounds by Bassily and others.
""",
    lambda: {"report": report_figure(), "rows": rows_needed_figure(), "privacy": privacy_figure()},
    analyst_panel,
)

MATHS = (
    Maths(
        "The attack",
        r"""
Features $x_{ij}$ and labels $y_i$ are $\pm1$. Question $j$ is $\varphi_j = (1 + x_j y)/2$, its answer $a_j$ tells the
correlation $c_j = 2a_j - 1$. The classifier is

$$\operatorname{sign}\Bigl(\sum_j \operatorname{sign}(c_j)\, x_j\Bigr)$$

A row's own $x_{ij}y_i$ enters $c_j$ with $1/n$, so that each vote agrees with it a little more often than not. With
noise of standard deviation $s$ on $c$, the vote is right about a row of the sample with probability

$$\Phi\!\left(\sqrt{\tfrac{2d}{\pi}}\;\frac{1/n}{\sqrt{1/n+s^2}}\right)$$

and $\Phi(\sqrt{2/\pi}) = 0.788$ at $d = n$, $s = 0$. About a fresh row it is right with probability 1/2.
""",
        "adaptive/overfitting_attacks.py",
        ("expected_attack_accuracy",),
        "the formula",
    ),
    Maths(
        "Noise",
        r"""
$$a = \mathrm E_S[\varphi] + \mathrm{Lap}(b) \qquad\text{or}\qquad a = \mathrm E_S[\varphi] + N(0, s^2)$$

A mean of $n$ values in $[0,1]$ changes by at most $1/n$ if one row changes. So $m$ answers are $\varepsilon$-private
with

$$\varepsilon = \frac{m}{nb} \qquad\text{or}\qquad \varepsilon = \rho + 2\sqrt{\rho\ln(1/\delta)},\quad \rho =
\frac{m}{2n^2s^2}$$

**Transfer theorem** (constants from memory): if the whole run is $\varepsilon$-private with $\varepsilon \le \tau/2$
and $n \ge 12\ln(4/\beta)/\tau^2$, the question that the analyst ends with differs by more than $\tau$ between sample
and population with probability at most $\beta$.
""",
        "adaptive/statistical_queries.py",
        ("LaplaceMechanism", "GaussianMechanism", "SampleSplittingMechanism"),
    ),
    Maths(
        "Thresholdout",
        r"""
Noisy threshold $\hat T = T + \mathrm{Lap}(2\sigma)$. Per question, with $\eta \sim \mathrm{Lap}(4\sigma)$:

- if $|\mathrm E_{\text{train}}\varphi - \mathrm E_{\text{holdout}}\varphi| > \hat T + \eta$: answer
  $\mathrm E_{\text{holdout}}\varphi + \mathrm{Lap}(\sigma)$, pay 1, draw $\hat T$ anew;
- else answer $\mathrm E_{\text{train}}\varphi$, for free.

The threshold is kept between two answers that cost: the proof of privacy needs it. The program of the Science paper
has Gaussian noise, a fresh threshold for every question, $T = 4/\sqrt n$, $\sigma = 1/\sqrt n$ and no budget. Privacy:
$\varepsilon = 2B/(\sigma n)$ for a budget $B$.
""",
        "adaptive/reusable_holdout.py",
        ("Thresholdout.answer",),
    ),
    Maths(
        "The sparse test",
        r"""
Thresholdout, PMW and Median share one test: is the guess further from the sample than a noisy threshold? Only a yes
costs privacy, however many questions are asked:

$$\frac{1}{2\sigma n} + \frac{2}{4\sigma n} + \frac{1}{\sigma n} = \frac{2}{\sigma n}$$

for the threshold, the comparisons up to the next yes, and the answer.
""",
        "adaptive/_sparse_test.py",
        ("SparseTest",),
    ),
    Maths(
        "PMW and Median",
        r"""
$x_t$ is a distribution on the universe $X$, at first uniform; the guess is $\mathrm E_{x_t}\varphi$. After an answer
$a$ over the threshold, with $s = \operatorname{sign}(a - \mathrm E_{x_t}\varphi)$:

$$x_{t+1}(u) \propto x_t(u)\, e^{\eta s \varphi(u)}, \qquad \eta = \gamma/2$$

$\mathrm{KL}(S\,\|\,x_t)$ starts below $\ln|X|$ and falls by at least $\eta\gamma - \eta^2/8 \ge \gamma^2/4$ with each
update: at most $4\ln|X|/\gamma^2$ updates, whatever the number of questions.

Median: the guess is the median of the candidates' means; those on the wrong side of an answer over the threshold are
struck out, at least half of them.
""",
        "adaptive/universe_mechanisms.py",
        (
            "PrivateMultiplicativeWeights._guess",
            "PrivateMultiplicativeWeights._correct",
            "MedianMechanism._correct",
        ),
    ),
    Maths(
        "The Science experiment",
        r"""
$X \sim N(0,1)$, $y = \pm1$; with signal $6y/\sqrt n$ is added to the first 20 features. With $c = X^\top y/n$ on
training set and holdout, a feature is **kept** if both $c$ have one sign and both are larger than $1/\sqrt n$. The
classifier with $k$ features is a vote of the $k$ with the largest $|c_{\text{train}}|$.

*Plain reuse* looks at the holdout's $c$ and reports the accuracy on it. *Thresholdout* answers both questions: the
correlation of each feature, and the accuracy of each classifier.
""",
        "adaptive/overfitting_attacks.py",
        ("holdout_selection",),
    ),
)

experiment_page("adaptive-data-analysis", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
