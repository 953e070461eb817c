r"""Pairs of answer and gold, right (~) and wrong (#), by kind: how models write, and what a grader must not fall for.

The policy itself stands in test_reward.py; here are its consequences.
"""
import pytest

import latex
from test_reward import check, need, reward  # noqa: F401 (reward is a fixture)

TABLES = [
    ("names, equations and inequalities", r"""
        z=2+3i # z=2-3i
        iz+2=3 # iz+2=4
        I_p=2x+1 # I_d=2x+1
        min=1 # min=2
        if n=3 # if n=4
        k\geqslant2 ~ k \ge 2
        k \geq 2 ~ k>=2
        x \lt 3 ~ x < 3
        x \gt 3 ~ x>3
        x \neq 2 ~ x≠2
        m_{\max}=n^2-n-1 ~ n^2-n-1
        \left\lfloor \frac{n}{2} \right\rfloor ~ \lfloor n/2\rfloor
        x=1 ~ x = 1
        x=1, y=2 # x=2, y=1
        x=1, y=2 ~ y=2, x=1
        (x,y)=(1,2) ~ (1,2)
        (x,y)=(2,1) # (1,2)
        (x,y)=(1,2) ~ (x,y)=(1,2)
        x=1,2 ~ x=1 \text{ or } x=2
        x=\pm 2 ~ \pm2
        x = \pm 2 ~ -2, 2
        D=(0,1) ~ (0,1)
        D=(0,1) # D=(0,1]
        0<x<5 ~ 5>x>0
        0\le x<5 # 0<x<5
        0<x<5 # 0<x<6
        x>3 ~ 3<x
        x>3 # 3>x
        2x>6 # x>3
        2x>6 ~ 3x>9
        1<x<3 ~ 1<x<3
        2<2x<6 # 1<x<3
        -x<3 # x<3
        -x<3 # x>-3
        -3<x ~ x>-3
        x \ge 3 # x > 3
        a>b # a<b
        a>b ~ b<a
        x \ne 3 ~ 3 \ne x
        x \ne 3 # x \ne 4
        x \ne 3 # x=3
        3x+4y=12 ~ 4y+3x-12=0
        3x+4y=12 ~ \frac x4+\frac y3=1
        3x+4y=12 # 3x+4y=13
        x^2+y^2=1 # x^2-y^2=1
        y=x^2 # y=x^3
        x=y ~ y=x
        x=x # y=y
        0=0 # 1=1
        x+1=x # y+1=y
        25=26 # 3=4
        y=2x+1 ~ 2x+1
        f(x)=2x+1 ~ 2x+1
        f(x)=2x+1 # g(x)=2x+1
        f(x)=2x+1 ~ f(x)=1+2x
        a_n=2n ~ 2n
        a_n=2n # b_n=2n
        a_1=3 # a_2=3
        \text{Area}=5 ~ 5
        S_{\triangle ABC}=5 ~ 5
        \angle ABC=30^\circ ~ 30
        \angle ABC=30^\circ ~ 30^\circ
        max=5 # min=5
        \max=5 # \min=5
        m+n=17 ~ 17
        p=q # q=r
        x_1=x_2 # x_1=x_3
        |AB|=5 ~ 5
        \{x | x>0\} ~ \{ x \mid x > 0 \}
        \{x:x>0\} ~ \{x \colon x > 0\}
        \{x | x>0\} # \{x|x>1\}
        \{x | x>0\} # \{x|x\ge0\}
        x=5\text{ cm} ~ 5
        x=5\text{ cm} # 6
        x = 5 cm ~ 5
        2\le x\le 5 ~ 5\ge x\ge2
        1<x<2 \text{ or } x>5 ~ x>5 \text{ or } 1<x<2
        1<x<2 \text{ or } x>5 # x>5 \text{ or } 1<x<3
        5 if n=3 # 5 if n=4
        5 if n=3 ~ 5 if n=3
        5\text{ if }n=3 # 5\text{ if }n=4
        5\text{ if }n=3 # 5
        max=5, min=1 # max=5, min=2
        max=5, min=1 ~ min=1, max=5
        \text{max}=5 # \text{min}=5
        \max = 5 ~ 5
        3 \text{ if } x>0 # 3
        3, x>0 # 3
        x>0, 3 # 3
        n=2k+1 # n=2k-1
        n=2k+1 ~ 2k+1
        n=2k, k\in\mathbb{Z} ~ n = 2k, k \in \mathbb Z
        n=2k, k\in\mathbb{Z} # n=3k, k\in\mathbb{Z}
        x=\frac{\pi}{4} ~ \pi/4
        x = -\frac{1}{2} ~ -\frac12
        \{x\in\mathbb{R}: x>0\} # \{x\in\mathbb{R}: x<0\}
        \frac{1}{2}\left(1-\frac{1}{3^n}\right) ~ \frac12-\frac{1}{2\cdot3^n}
        f^{-1}(x)=2x ~ 2x
        f^{-1}(x)=2x # f(x)=2x
        x=1 # x=-1
        x=1 \text{ and } y=2 ~ x=1,y=2
        (x,y)=(1,2) # (y,x)=(1,2)
        (x,y,z)=(1,2,3) ~ (1,2,3)
        A=(1,2) ~ (1,2)
        \angle A = 30^\circ ~ 30
        \text{x=5} ~ 5
        \theta=\frac{\pi}{3} ~ \frac{\pi}{3}
        r=2\cos\theta ~ 2\cos\theta
        r=2\cos\theta # r=2\sin\theta
        x=5, y=3 # x=3, y=5
        a=1, b=2, c=3 ~ c=3, a=1, b=2
        a=1, b=2 # a=2, b=1
        x=2 # 2x
        x_1=1, x_2=2 # x_1=2, x_2=1
        x_1=1, x_2=2 ~ 1, 2
        x_{1,2}=1\pm\sqrt2 ~ 1\pm\sqrt2
        \text{min}=1,\text{max}=5 # \text{min}=5,\text{max}=1
        p=2\text{ and }q=3 # p=3\text{ and }q=2
        A=\{1,2\} ~ \{1,2\}
        A=\{1,2\} # B=\{1,2\}
        P(A|B)=\frac12 ~ \frac12
        P(A)=\frac12 # P(B)=\frac12
        \left\lceil\frac{n+1}{2}\right\rceil # \left\lceil\frac{n}{2}\right\rceil
        z=\pm i ~ i,-i
        z=\pm i # z=i
        x=2\pm\sqrt3 ~ 2+\sqrt3, 2-\sqrt3
        x=2\pm\sqrt3 # 2+\sqrt3, 2-\sqrt5
        y=mx+b # y=bx+m
        y=mx+b ~ y=b+mx
        y-1=2(x-3) ~ y=2x-5
        y-1=2(x-3) # y=2x+5
        2x+3y=6 ~ 4x+6y=12
        2x+3y=6 # 2x-3y=6
        2x+3y=6 ~ -2x-3y=-6
        x^2+y^2=4 # x^2+y^2=2
        x^2=4 # x=2
        xy=1 # x+y=1
        (x-1)^2+(y-2)^2=9 ~ x^2+y^2-2x-4y-4=0
        (x-1)^2+(y-2)^2=9 # (x-2)^2+(y-1)^2=9
        \frac{x}{2}=\frac{y}{3} ~ 3x=2y
        x=y=z # x=y
        3=x ~ x=3
        5=x ~ 5
        0=1 # 1=2
        1=1 # 2=2
        x-x=0 # y-y=0
        x+y=x+y # 0=0
        \sin^2x+\cos^2x=1 # \tan x\cot x=1
        x<y # y<x
        x\le y ~ y\ge x
        x<2 \text{ or } x>3 ~ x>3\text{ or }x<2
        x<2 \text{ and } x>1 # x<2
        1<x # 1\le x
        1<x<3 # 1<x\le3
        1<x<3 # 1<y<3
        3>x>1 ~ 1<x<3
        x>1, x<3 # x>1
        x>-1 ~ -x<1
        x>-1 # -x>1
        0<2x<4 # 0<x<2
        0<2x<4 # 0<x<4
        x^2<4 # -2<x<2
        a\ne b ~ b\ne a
        a\ne b # a\ne c
        a\ne b # a=b
        26=x # 25
        x_{\text{min}}=1 # x_{\text{max}}=1
        x_{\text{min}}=1 ~ 1
        x_{\mathrm{min}}=1 ~ x_{\text{min}}=1
        P(X=2)=0.3 ~ 0.3
        P(X=2)=0.3 # P(X=3)=0.3
        f(-1)=3 ~ 3
        f(-1)=3 # f(1)=3
        f(\frac12)=3 # f(\frac13)=3
        [ABC]=12 ~ 12
        [ABC]=12 # [ABD]=12
        \overline{AB}=5 ~ 5
        \overline{AB}=5 # \overline{AC}=5
        m\angle ABC=30^\circ ~ 30^\circ
        \left ( 1 , 2 \right ) ~ (1,2)
        x = 5 \text{ cm} ~ 5
        \sin A=\frac35 # \cos A=\frac35
        n=5, m=3 # n=3, m=5
        -2x=1 # 2x=1
        a:b=1:2 # a:b=2:1
        a:b=1:2 ~ a:b=1:2
        mxa=5, min=2 # max=5, min=2
        amx=5 # max=5
        5 fi n=4 # 5 if n=4
        5 ifn=4 ~ 5 if n=4"""),
    ("units, percent and currency", r"""
        60\degree ~ 60^\circ
        $\frac12$. ~ \frac{1}{2}
        $1$ and $2$ ~ 1,2
        60 km/h ~ 60
        60 \text{ km/h} ~ 60
        60 km/h ~ 60 \text{ km/h}
        9.8 m/s^2 ~ 9.8
        9.8\,\mathrm{m/s^2} ~ 9.8 \text{ m/s}^2
        25 cm^2 ~ 25
        25 cm^2 # 25 cm
        25 cm^2 ~ 25\text{ square cm}
        €25 ~ 25
        £25 ~ 25
        ¥500 ~ 500
        £25 # €25
        €25 ~ 25€
        x\in[0,1] # y\in[0,1]
        x \in (0,1) ~ (0,1)
        25\text{ mW} # 25\text{ MW}
        25\text{ inches} ~ 25\text{ in}
        25\text{ inches} ~ 25\text{ inch}
        25\text{ feet} ~ 25 ft
        25\text{ feet} # 25\text{ inches}
        5\text{ meters} ~ 5\text{ m}
        5\text{ m} # 5\text{ km}
        25\text{ cubic feet} ~ 25\text{ ft}^3
        25\text{ ft}^2 # 25\text{ ft}^3
        25 apples ~ 25
        25 apples # 25 oranges
        25\text{ apples} ~ 25
        25\text{ miles per hour} ~ 25 mph
        12 hours ~ 12\text{ hours}
        12\text{ hours} # 12\text{ minutes}
        25\text{ percent} ~ 25\%
        25\% ~ 25%
        25\text{ thousand} # 25
        25^\circ C ~ 25^\circ\mathrm{C}
        \text{yes} ~ Yes
        1\frac12 cm ~ 1.5
        \sin 30^\circ # \sin 30
        \cos 36^\circ # \cos 72^\circ
        25\ \text{cm} ~ 25
        25~\text{cm} ~ 25
        \frac{25}{2}\text{ cm} ~ 12.5
        12\sqrt3\text{ cm}^2 ~ 12\sqrt{3}
        12\sqrt3 cm^2 ~ 12\sqrt{3}
        12\pi\text{ cm}^2 ~ 12\pi
        12\pi cm^2 ~ 12\pi
        12\pi cm # 12\pi m
        \$1{,}234.50 ~ 1234.5
        -\$5 ~ -5
        \$-5 ~ -5
        \$5 # -5
        5 dollars ~ \$5
        5 cents # 5 dollars
        5\text{¢} # 5\text{ dollars}
        2^{\circ} # 2^0
        \sin 30^\circ ~ \frac12
        \sin 30^\circ ~ \sin 30^{\circ}
        \tan 45^\circ ~ 1
        \cos 36^\circ ~ \frac{1+\sqrt5}{4}
        x\in\mathbb{R} ~ (-\infty,\infty)
        3 (\text{approx}) # 3
        \frac13 \text{ cup} ~ \frac13
        1\text{st} # 2
        3\times 10^8\text{ m/s} ~ 3e8
        10\text{ N} # 10\text{ J}
        10\text{ N} ~ 10
        10\,\mathrm{N} ~ 10
        10\,\mathrm{kg} ~ 10
        10\,\mathrm{kg} # 10\,\mathrm{g}
        \operatorname{lcm}(4,6) # 12
        \textbf{circle} ~ \textit{Circle}
        \text{true} # false
        25\text{ approx} # 25
        25\text{k} # 25
        3\text{ quarters} # 3
        2\text{x} # 2
        2\text{n} # 2
        25\text{ h} ~ 25
        25\text{ N} ~ 25
        25\text{ otherwise} # 25
        0.5 \% ~ 0.5
        50\% # \frac12
        \frac{1}{2}\% ~ 0.5\%
        $25$ ~ 25
        \$25.00 ~ 25
        \$ 25 ~ 25
        25 \$ ~ 25
        25\,€ ~ 25
        25 € ~ €25
        £25 ~ 25\text{ pounds}
        ¥500 ~ 500\text{ yen}
        ¥500 # ¥600
        25 euros ~ €25
        25\text{ USD} ~ 25
        6\text{ ft }2\text{ in} # 6
        6 ft 2 in # 6
        5 feet # 5 foot lamberts
        5\frac{1}{2} inches ~ 5.5
        1{,}000\text{ km} ~ 1000
        100 km/h ~ 100\text{ km/h}
        100 km/h # 100 m/s
        100 km/h # 100 km
        9.8 m/s^2 ~ 9.8\text{ m/s}^2
        9.8 m/s^2 ~ 9.8\text{ m}/\text{s}^2
        9.8 m/s^2 # 9.8 m/s
        9.8 m/s^{2} ~ 9.8
        5 \text{ cm}^3 ~ 5\text{ cubic centimeters}
        5 \text{ sq. ft} ~ 5\text{ square feet}
        5 in^2 ~ 5\text{ in}^2
        4\sqrt{3}\text{ in}^2 ~ 4\sqrt3
        2x cm # 2x
        3n+2 cm # 3n+2
        10 dm # 10 cm
        \infty\text{ many} # \infty
        \text{13 cm} ~ 13
        \text{x} ~ x
        2\text{cis}\frac{\pi}{4} # 2
        33.33\% # 33.3\%
        16\frac23\% ~ \frac{50}{3}\%
        $\$25$ ~ 25
        25\text{ km-h} # 25\text{ km/h}
        25\text{ m}/\text{s}^2 ~ 25\text{ m/s}^2"""),
    ("lists, sets, intervals, pairs and matrices", r"""
        \{\} ~ \varnothing
        \sqrt[3]{-8} ~ -2
        \sqrt[3]{8} ~ 2
        \sqrt[3]{2} # \sqrt[4]{2}
        \pm 2 ~ 2, -2
        \pm 2 # 2
        \mp 2 ~ \pm 2
        1 \mp \sqrt5 ~ 1\pm\sqrt5
        \pm\sqrt3 # \pm\sqrt2
        [0,+\infty) ~ [0,\infty)
        (-\infty,+\infty) ~ (-\infty,\infty)
        [0,1)\cup(2,3] ~ (2,3]\cup[0,1)
        [0,1)\cup(2,3] # [0,1]\cup(2,3]
        \begin{pmatrix}1\\2\end{pmatrix} ~ \begin{bmatrix}1\\2\end{bmatrix}
        \begin{pmatrix}1\\2\end{pmatrix} # \begin{pmatrix}1&2\end{pmatrix}
        \begin{pmatrix}1\\2\end{pmatrix} # \begin{pmatrix}2\\1\end{pmatrix}
        \begin{pmatrix}1&2\\3&4\end{pmatrix} # \begin{pmatrix}1&3\\2&4\end{pmatrix}
        \begin{pmatrix}1/2\\2\end{pmatrix} ~ \begin{pmatrix}0.5\\2\\ \end{pmatrix}
        \begin{pmatrix}1\\2\end{pmatrix} # (1,2)
        \begin{vmatrix}1&2\\3&4\end{vmatrix} # \begin{pmatrix}1&2\\3&4\end{pmatrix}
        \mathbb{R} ~ \mathbb R
        \mathbb{R} # \mathbb{Q}
        \R ~ \mathbb{R}
        \mathbb{R}\setminus\{0\} ~ \mathbb R \setminus \{0\}
        \{1, 2\} ~ \lbrace 1,2 \rbrace
        1,5 # 1.5
        (1, 2, 3) ~ (1,2,3)
        (1,2,3) # (1,3,2)
        (1;2) ~ (1,2)
        1;2 ~ 1,2
        1, 2, and 3 ~ 1,2,3
        1, 2, and 3 # 1,2,4
        1, 2 # 1,2,3
        1,2,2 # 1,2
        1,1,2 # 1,2,2
        (1,2),(3,4) ~ (3,4),(1,2)
        (1,2),(3,4) # (1,2),(4,3)
        (1,2),(3,4) # (1,4),(3,2)
        \{(1,2),(3,4)\} ~ (3,4),(1,2)
        (a,b) # (b,a)
        (\frac{1}{2^{60}},1) # (\frac{1}{2^{61}},1)
        [\sqrt2,\infty) ~ [\sqrt{2},+\infty)
        [-1,1] # [-1,1)
        (-\infty,0)\cup(0,\infty) # (-\infty,\infty)
        \infty # -\infty
        \infty ~ +\infty
        +\infty ~ \infty
        \infty # 1
        25\,000 ~ 25000
        \max(1,2) # 12
        \gcd(4,6) # 4
        \sqrt[3]{x^3} ~ x
        \mathbb{R}\setminus\{1\} ~ (-\infty,1)\cup(1,\infty)
        \mathbb{R}\setminus\{1\} # (-\infty,2)\cup(2,\infty)
        \mathbb{R} # \mathbb{R}\setminus\{1\}
        3 \text{ or } 4 # 3
        (1e3, 2) ~ (1000,2)
        \{2,4,6,\ldots\} ~ \{2,4,6,\dots\}
        \{2,4,6,\ldots\} # \{2,4,6\}
        x^{1/3} ~ \sqrt[3]{x}
        x^{2/3} ~ \sqrt[3]{x^2}
        \sqrt[4]{x} ~ \sqrt{\sqrt x}
        \text{Monday, Tuesday} ~ \text{Tuesday}, \text{Monday}
        -\{1,2\} # \{1,2\}
        [0,1]\cup\{2\} ~ \{2\}\cup[0,1]
        [0,1]\cup\{2\} # [0,1]\cup\{3\}
        (0,1)\cap(2,3) # (0,1)\cup(2,3)
        1,2; 3 ~ 1,2,3
        a,b # b,c
        a, b ~ b, a
        a and b ~ a,b
        \text{A and B} ~ A,B
        A,B ~ \text{B and A}
        AB, CD # AB, CE
        A(1,2) # (1,2)
        P(1,2) ~ P(1, 2)
        x \equiv 3 \pmod 7 ~ x\equiv 3\pmod{7}
        x \equiv 3 \pmod 7 # x \equiv 4 \pmod 7
        3 \pmod 7 # 3 \pmod 5
        \text{(1,2)} ~ (1,2)
        5, # 6
        5; # 6
        5\, ~ 5
        A\cup B # A\cap B
        A\cup B ~ B\cup A
        \max(a,b) # \min(a,b)
        \max\{a,b\} # \min\{a,b\}
        \pm1,\pm2 ~ 1,-1,2,-2
        \pm1,\pm2 # 1,-1,2
        \pm\frac{\sqrt2}{2} ~ \pm\frac{1}{\sqrt2}
        \{-1,0,1\} ~ 0,\pm1
        (0,1] # (0,1)
        [1,2) # (1,2]
        (1,2) # 1,2
        1,2 # (1,2)
        \{1,2\} # (1,2)
        (1,2)\cup\{3\} # (1,2)
        (-\infty,2]\cup[3,\infty) ~ [3,\infty)\cup(-\infty,2]
        (2,1) # (1,2)
        ((1,2),(3,4)) # ((1,2),(4,3))
        ((1,2),(3,4)) ~ ((1, 2), (3, 4))
        (1,2)\to(3,4) # (1,2)
        \sqrt [3] { 8 } ~ 2
        \langle 1, 2\rangle ~ \langle 1,2 \rangle
        \langle 1,2\rangle # \langle 2,1\rangle
        5 \text{ or } -5 ~ \pm 5"""),
    ("words and letters", r"""
        m n ~ mn
        \varnothing ~ \emptyset
        \textnormal{east} ~ east
        \text{No} # \text{on}
        \text{Yes} # \text{No}
        \vec{v} # v
        \overline{AB} # AB
        \text{None} ~ none
        \text{no solution} ~ No solution
        \text{No solutions exist} # \text{solutions exist}
        \text{odd} # \text{even}
        \text{Tuesday} ~ tuesday
        \text{Tuesday} # \text{Thursday}
        \text{(A)} ~ A
        \textbf{(B)} ~ B
        \textbf{B} ~ \text{(B)}
        AB # BA
        AB # CD
        AB ~ A B
        ABC # ACB
        ab # AB
        \hat{x} # x
        no # on
        two # tow
        \lambda x # x
        \Delta x # x
        \mathrm{i} ~ i
        \text{Circle} ~ circle
        \text{a circle} # circle
        \text{True} ~ true
        \triangle ABC # \triangle ACB
        \overline{AB} ~ \overline{AB}
        \overrightarrow{AB} # \overline{AB}
        \overline{z} # z
        A\subset B # B\subset A
        A \setminus B # B\setminus A
        a\mid b # b\mid a
        \lfloor x\rfloor # x
        \lfloor x \rfloor # \lceil x\rceil
        \arccos x # \arcsin x
        A\to B # B\to A"""),
    ("what is not understood is compared as text", r"""
        0 # \frac{dy}{dx}
        3+\frac{da}{db} # 3
        \frac{dt}{dx}=kx-a # \frac{dx}{dt}=kx-a
        x'  # x
        \sum_{k=1}^n k # k
        \int_0^1 x dx # x
        \lim_{x\to0} x # 0
        f'(x)=2x # f(x)=2x
        f'(x)=2x ~ 2x
        \frac{d}{dx}x^2 # x^2
        \frac{d^2y}{dx^2} # \frac{y}{x^2}
        \frac{\partial f}{\partial x} # \frac{f}{x}
        dy/dx # y/x
        y'=2x # y=2x
        \dot{x} # x
        x^\prime # x
        '5' # 6
        3\cdot{20}5 # 300"""),
    ("very small and very large differences", r"""
        \frac{1}{2^{98}} # \frac{1}{2^{99}}
        10^{-20} # 10^{-21}
        \sqrt2 # \sqrt2+10^{-20}
        \frac{13!}{52!} # \frac{12!}{52!}
        1-\frac1{2^{60}} # 1-\frac1{2^{61}}
        4.5\times10^{33} ~ 4.5e33
        4.5\times10^{33} # 4.5e32
        2^{10} ~ 1024
        2^{10} # 1025
        2^{100}-1 # 2^{100}
        \frac{2^{100}}{3} # \frac{2^{100}+1}{3}
        \sqrt{10^{400}+1} # 10^{200}
        \sqrt{10^{40}+1} # 10^{20}
        \sqrt{10^{40}} ~ 10^{20}
        e^{-50} # e^{-60}
        e^{-50} # 0
        e^{-5000} # 0
        \pi^{-500} # 0
        \pi-3.14159265358979323846264338327950288419716939937510 # 0
        \sqrt{10^{400}} ~ 10^{200}
        \sqrt{10^{1000}+1} # 10^{500}
        \frac{13!}{52!}x ~ x\cdot\frac{13!}{52!}
        \frac{13!}{52!}\sqrt x # \frac{12!}{52!}\sqrt x
        2^{2025}\pi # \pi 2^{2024}
        1e10 ~ 10^{10}
        6.02 \times 10^{23} # 6.02\times10^{22}
        6.02 \times 10^{23} # 6.022\times10^{23}
        10^{-100} # 0
        10^{100} # 10^{100}+1
        \frac{10^{100}}{10^{100}+1} # 1
        (1+10^{-50})^2 # 1
        \sqrt{1+10^{-50}} # 1
        \cos(10^{-30}) # 1
        e^{10^{-60}} # 1
        \sin(10^{-30}) # 10^{-30}
        \ln(1+10^{-50}) # 10^{-50}
        \tan(10^{-40}) # \sin(10^{-40})
        \sqrt{x^2+10^{-40}} # |x|
        x+10^{-30} # x
        \frac{x}{1+10^{-30}} # x
        x(1-10^{-50}) # x
        2^{-98} # 2^{-99}
        \frac{1}{2^{98}} ~ 2^{-98}
        \frac{52!}{13!39!} ~ \binom{52}{13}
        \frac{52!}{13!39!} # \binom{52}{12}
        13!39! ~ 39!\cdot 13!"""),
    ("numbers without letters", r"""
        \frac23E_{2} # \frac23E_{1}
        \log_{10} 2 ~ \log _{10} 2
        \dbinom{5}{2} ~ 10
        3\colon 4 ~ 3:4
        (52)_8 ~ 52_8
        {52}_{8} ~ 52_8
        (52)_8 # 52_9
        (52)_8 # 52
        \ln 8 ~ 3\ln 2
        \log_2 8 ~ 3
        \log_{2}{3} # \log_{3}{2}
        \tan^{-1}(1) ~ \frac{\pi}{4}
        2^{1/2} ~ \sqrt2
        2^{0.5} ~ \sqrt2
        (1+i)(1-i) ~ 2
        \frac{1}{i} ~ -i
        e^{i\pi/2} ~ i
        \lfloor 2.5 \rfloor ~ 2
        |{-5}| ~ 5
        \lvert -5\rvert ~ 5
        25^\circ\text{C} ~ 25
        25^\circ\text{C} # 25^\circ\text{F}
        -1\frac12 ~ -\frac32
        .\overline{9} ~ 1
        3.0 ~ 3
        3. ~ 3
        3e8 ~ 3\times10^8
        3E8 ~ 300000000
        1.5e-3 ~ 0.0015
        3 \cdot 10^{8} ~ 3 \times 10^8
        10^3 ~ 1000
        2^{-1} ~ 0.5
        (-2)^3 ~ -8
        -2^2 ~ -4
        -2^2 # 4
        (-1)^{2024} ~ 1
        2025^{2025} # 2025^{2024}
        2025^{2025} ~ 2025\cdot 2025^{2024}
        2^{2^3} ~ 256
        \sqrt2+\sqrt3 ~ \sqrt{5+2\sqrt6}
        \sqrt2+\sqrt3 # \sqrt{5+2\sqrt7}
        \sqrt{2}\sqrt{3}-\sqrt6 ~ 0
        (\sqrt2+1)(\sqrt2-1) ~ 1
        \cos\frac{\pi}{3} ~ \frac12
        \sin(\pi/6) ~ 1/2
        e^{\ln 2} ~ 2
        \ln e ~ 1
        \log 100 ~ 2
        \ln 100 # \log 100
        \lg 100 ~ 2
        \binom{52}{5} ~ 2598960
        \frac{\binom{4}{2}}{\binom{52}{2}} ~ \frac{6}{1326}
        20(5) # 25
        20\cdot 5 ~ 5\times 20
        3 \times 4 ~ 4\cdot 3
        \frac{20000}{\pi} ~ 20000/\pi
        8\pi ~ 8 \pi
        8\pi # 8
        \alpha+\beta ~ \beta+\alpha
        \alpha # \beta
        \theta ~ θ
        A # B
        (A) ~ A
        (A) # (B)
        \textbf{(B) } 25 # 24
        i # -i
        i ~ \sqrt{-1}
        e # 2.718281828
        3:4 # 4:3
        3:4 ~ 3 : 4
        12:30 ~ 12:30
        12:30 # 1:30
        1,000,000 ~ 1000000
        1 000 000 ~ 1000000
        1,000 # 1,001
        1.000 ~ 1
        25{,}000 ~ 25000
        USD 5 # 6
        \approx 5 # 5
        \sim 5 # 5
        5\ldots # 5
        25\bmod 7 # 4
        3\equiv 1 # 3
        5!! # 120
        5! ~ 120
        0! ~ 1
        (3!)! ~ 720
        \sqrt{-4} ~ 2i
        \sqrt{4} ~ 2
        \sqrt{4} # -2
        \sqrt{12} ~ 2\sqrt3
        \sqrt{\frac{3}{4}} ~ \frac{\sqrt3}{2}
        \frac{1}{\sqrt2} ~ \frac{\sqrt2}{2}
        \frac{1}{\sqrt2} # \frac{\sqrt2}{3}
        \frac{\sqrt6-\sqrt2}{4} ~ \sin\frac{\pi}{12}
        \frac{\sqrt{5}+1}{4} ~ \cos(\pi/5)
        \sqrt{3}/2 ~ \frac{\sqrt3}{2}
        \frac{1}{2}! ~ \frac{\sqrt\pi}{2}
        2:1 # 2
        10^{-8} ~ 1e-8
        10^{-8} # 1e-9
        -1e-8 ~ -10^{-8}
        1.39\cdot10^9 ~ 1390000000
        2e # 2
        e3 # 1000
        E_1 # E_2
        E_{1} ~ E_1
        \frac23E_1 ~ \frac{2E_1}{3}
        \frac23E_1 # \frac23
        \mu_0 # \mu_1
        10 N # 10
        10 N ~ 10 N
        10\mathrm{e} # 10
        \mathrm{e}^2 ~ e^2
        1-\frac{1}{\mathrm e} ~ 1-\frac1e
        1-\frac{1}{\mathrm e} # 1+\frac1e
        \text{ } # 3
        \frac # \frac{1}{2}
        \frac{1}{0} # \frac{2}{0}
        0/0 # 0
        \sqrt{ # \sqrt{2}
        {2 # 2
        (2 # 2
        \ln 0 # 0
        \tan\frac\pi2 # 0
        1:2:3 ~ 1 : 2 : 3
        1:2:3 # 1:3:2
        \frac{1}{2}:\frac13 # 3:2
        12{:}30 ~ 12:30
        \text{13} ~ 13
        \boxed{5} # 6
        5. ~ 5
        "5" # 6
        5\\ # 6
        5~ ~ 5
        5! # 5
        5? # 5
        +5 ~ 5
        ++5 # 6
        --5 # -5
        -(-5) ~ 5
        (-5) ~ -5
        -0 ~ 0
        00 ~ 0
        0.0 ~ 0
        1_000 # 1000
        \frac{-1}{2} ~ -\frac12
        \frac{1}{-2} ~ -\frac12
        -\frac{1}{-2} ~ \frac12
        \frac{2}{4} ~ \frac12
        \frac{1}{2}\cdot\frac{1}{3} ~ \frac{1}{3}\cdot\frac{1}{2}
        \frac{1}{2}\frac{1}{3} ~ \frac{1}{3}\frac{1}{2}
        \frac{1}{2} \frac{1}{3} # \frac56
        1\dfrac{1}{2} ~ \frac32
        1 1/2 ~ \frac32
        1 1/2 # \frac{11}{2}
        11/2 ~ \frac{11}{2}
        -1 1/2 ~ -\frac32
        2 \frac{3}{2} # 3.5
        1+\frac12 ~ \frac32
        \tfrac{1}{2} ~ .5
        {\frac{1}{2}} ~ \frac12
        {1\over2} # 2
        \sqrt{{2}} ~ \sqrt2
        \sqrt 2 ~ \sqrt{2}
        2\sqrt{3}\sqrt{2} ~ 2\sqrt6
        \sqrt3i ~ i\sqrt3
        \sqrt{3i} # \sqrt3i
        3+\sqrt{-4} ~ 3+2i
        |3+4i| ~ 5
        e^{\pi i}+1 ~ 0
        \cos\theta+i\sin\theta ~ e^{i\theta}
        P(A|B) # P(B|A)
        \sqrt{2}+\sqrt{3} # \sqrt{5}
        3.14 # \pi
        \frac{22}{7} # \pi
        3.14159 # \pi
        2.718 # e
        1.414 # \sqrt2
        0.33 # \frac13
        0.3333 # \frac{1}{3}
        0.\overline{3} ~ \frac13
        0.\overline{142857} ~ \frac17
        0.1\overline{42857} # \frac17
        99.9 # 100
        1e-100 # 0
        \frac{4!\cdot48!}{52!} ~ \frac{1}{\binom{52}{4}}
        \frac{100!}{99!} ~ 100
        \frac{1}{52!} # 0
        \frac{365!}{365^{23}\cdot342!} # \frac{365!}{365^{22}\cdot342!}
        1-\frac{365!}{365^{23}342!} ~ 1-\frac{365!}{342!\cdot365^{23}}
        \lfloor\pi\rfloor ~ 3
        \lceil\pi\rceil ~ 4
        \lfloor -2.5\rfloor ~ -3
        \sin 2\theta ~ 2\sin\theta\cos\theta
        \arcsin\frac12 ~ \frac{\pi}{6}
        \arctan\frac12+\arctan\frac13 ~ \frac{\pi}{4}
        \sin\frac{\pi}{5} # \sin\frac{\pi}{7}
        \log_3 9 ~ 2
        \log_{\frac12}8 ~ -3
        \log_9 3 ~ 0.5
        \log 2+\log 5 ~ 1
        2+3i # 2-3i
        3i+2 ~ 2+3i
        i^2 ~ -1
        i^3 ~ -i
        \frac{1+i}{1-i} ~ i
        \sqrt{-3} ~ i\sqrt3
        e^{2\pi i/3} ~ -\frac12+\frac{\sqrt3}{2}i
        e^{2\pi i/3} # -\frac12-\frac{\sqrt3}{2}i
        \omega # \omega^2
        1\to2\to3 # 1\to3\to2
        1\to2 ~ 1 \to 2
        {20}5 # 100
        2^3 4 ~ 4\cdot 2^3
        2^3 4 # 32
        \sqrt2 3 ~ 3\sqrt2
        \frac { 1 } { 2 } ~ \frac12
        {1}/{2} ~ \frac12
        \( \frac12 \) ~ 0.5
        \frac{5}{6} \approx 0.833 # 0.833
        \sqrtt{5} # \sqrt{5}
        2\sqrtx{3} # 2\sqrt{3}
        1(B) # B
        1E # E
        1\frac{13}{6} # \frac{13}{6}
        1\frac{13}{6} # \frac{19}{6}
        2\frac{5}{3} # \frac{10}{3}
        \frac{2K}{2} ~ K
        -e ~ 0-e
        e ~ e^1"""),
    ("formulas with letters", r"""
        2ab # 2bc
        2 # 2ab
        3n+2m # 3n+2
        \frac1m # \frac1m t
        1 pm # 1 am
        \frac{d !}{2 k} ~ \frac{d!}{2k}
        \dbinom{n}{2} ~ \binom n2
        \dbinom{n}{2} ~ \frac{n(n-1)}{2}
        (n-2) 2^{n}+1 ~ (n-2)\cdot 2^n+1
        \sqrt{1/n} ~ \frac1{\sqrt n}
        x^{2}-1 ~ (x-1)(x+1)
        \sqrt{x^2} # x
        |x| ~ \sqrt{x^2}
        \frac{x^2-1}{x-1} ~ x+1
        a/b ~ \frac{a}{b}
        x^{-1} ~ \frac1x
        e^{-x} ~ \frac{1}{e^x}
        \ln(x^2+1) # \ln(x^2-1)
        \sin 2x ~ 2\sin x\cos x
        \sin^{-1} x ~ \arcsin x
        \cos^2 x ~ 1-\sin^2x
        \frac{\sin x}{\cos x} ~ \tan x
        \sec x ~ \frac{1}{\cos x}
        \lceil n/2\rceil # \lfloor n/2\rfloor
        |x-1| ~ |1-x|
        n! ~ n\cdot(n-1)!
        (2n)! # 2n!
        \frac{n!}{(n-2)!} ~ n(n-1)
        24 abcd # 24
        24abcd # 24
        24abc # 24
        24 abc # 24
        2k # 2
        5x^2 # 5x
        5x^2y # 5xy^2
        |x| ~ |-x|
        |x-2|+1 ~ 1+|2-x|
        |x|^2 ~ x^2
        2|x| ~ |2x|
        |x| # x
        1\frac{1}{2}+x ~ x+\frac32
        0.1\overline{6}+x ~ x+\frac16
        \exp(x) ~ e^x
        \binom{n}{k} ~ \frac{n!}{k!(n-k)!}
        \binom{n}{k} ~ \binom{n}{n-k}
        \binom{n}{k} # \binom{n}{k+1}
        8\pi # 8p
        2\pi r ~ 2r\pi
        \pi r^2 ~ \pi\cdot r^{2}
        \pi r^2 # \pi r
        \frac{a+b}{2} ~ \frac12(a+b)
        \frac{a+b}{2} ~ (a+b)/2
        \frac{a+b}{2} # a+\frac b2
        a/2b # \frac{a}{2}b
        \frac{1}{x+1} # \frac1x+1
        \frac{1}{x}+1 ~ \frac{1+x}{x}
        x^{2}y ~ yx^2
        x^{n+1} ~ x\cdot x^n
        2^{n+1} ~ 2\cdot2^n
        2^{n+1} # 2^n+1
        2^n+1 # 2^n
        4^n ~ 2^{2n}
        (-1)^{n} # (-1)^{n+1}
        (-1)^{n+1} ~ -(-1)^n
        a_{n+1} # a_n+1
        a_{n} ~ a_n
        a_1+a_2 ~ a_2+a_1
        a_1+a_2 # a_1+a_3
        x_{1} # x^1
        a # A
        x # y
        2\sqrt{3} m # 2\sqrt3
        1+2+\ldots+n # 1+2+n
        25 mod 7 # 7 mod 25
        f(x) # f(y)
        f(2) # 2f
        x^* # x
        x\cdot y # x+y
        x\times y ~ xy
        x*y ~ xy
        x \div y ~ x/y
        x! # x
        \sqrt{x^2y} # xy
        sqrt(3)/2 ~ \frac{\sqrt3}{2}
        sqrt{3} ~ \sqrt3
        sin(x) ~ \sin x
        pi/2 ~ \frac{\pi}{2}
        2*pi ~ 2\pi
        x^2+1 ~ x**2+1
        (x+1)^{99} ~ (1+x)^{99}
        x^{99}+\sqrt x ~ \sqrt x+x^{99}
        x^{2005}+1 ~ 1+x^{2005}
        x^{2005}+1 # x^{2005}
        1/2x # \frac{1}{2x}
        3 cats # 3 dogs
        3 cats ~ 3
        2 am # 2 pm
        7 pm # 7 am
        2am # 2ma+1
        \frac{1}{3}\text{ of the cake} # \frac13
        2 \text{ to } 1 # 2
        2e+3x # 2000x
        \frac{\pi}{4}+k\pi ~ k\pi+\frac\pi4
        \frac{\pi}{4}+k\pi # \frac{\pi}{4}+2k\pi
        \frac{\pi}{4}+n\pi # \frac{\pi}{4}+k\pi
        x \approx 3.14 # 3.14
        a^2 + b^2 # a^2+b^3
        a^2+b^2 ~ b^2+a^2
        a^{2}+b^{2}+2ab ~ (a+b)^2
        a^2+b^2 # (a+b)^2
        (a-b)^2 ~ (b-a)^2
        (a-b)^3 # (b-a)^3
        \frac{a}{b}:\frac{c}{d} # \frac{ad}{bc}
        x_1x_2 ~ x_2x_1
        x_{12} # x_1x_2
        x_{12} # x_{21}
        v_0t+\frac12at^2 ~ \frac{1}{2}at^2+v_0t
        v_0t+\frac12at^2 # v_1t+\frac12at^2
        \operatorname{arctan} 2 ~ \arctan 2
        \frac{x}{0} # \frac{1}{0}
        \sqrt{-x^2-1} ~ \sqrt{-1-x^2}
        \sqrt{-x^2-1} # \sqrt{x^2+1}
        \ln(-x^2) # \ln(x^2)
        x^x ~ x^{x}
        x^x # x
        \log_a b ~ \frac{\ln b}{\ln a}
        \log_a b # \log_b a
        \log_2 x + \log_2 y ~ \log_2(xy)
        \ln x^2 ~ 2\ln x
        \ln^2 x # \ln x^2
        \sin^2 x # \sin x^2
        \sin 2x # 2\sin x
        \sin x\cos y ~ \cos y\sin x
        \sin(x+y) ~ \sin x\cos y+\cos x\sin y
        \sin(x+y) # \sin x+y
        \cosh^2 x-\sinh^2 x ~ 1
        \frac{n(n+1)(2n+1)}{6} ~ \frac{2n^3+3n^2+n}{6}
        \frac{n(n+1)(2n+1)}{6} # \frac{n(n+1)(2n-1)}{6}
        C_n^k # C_k^n
        25\text{ base 8} # 25
        25\text{ base eight} # 25
        25\text{ mod 7} # 25
        25\text{ remainder 3} # 25
        5in # 5
        0x5 # 5
        \frac{x}{2}y ~ \frac{xy}{2}
        \frac xy ~ \frac{x}{y}
        \frac x{y+1} ~ \frac{x}{y+1}
        \frac12x ~ \frac{x}{2}
        \frac1{2x} # \frac12x
        \sqrt x ~ \sqrt{x}
        \sqrt{x}y ~ y\sqrt x
        a|b # b|a
        \sqrt{a+b} # \sqrt a+\sqrt b
        (a+b)^n # a^n+b^n
        \frac{a}{b}+\frac{c}{d} # \frac{a+c}{b+d}
        \ln(a+b) # \ln a+\ln b
        \ln(ab) ~ \ln a+\ln b
        2^{a+b} ~ 2^a2^b
        2^{a+b} # 2^a+2^b
        2^{ab} ~ (2^a)^b
        x^{2^{n}} # x^{2n}
        -x^2 # (-x)^2
        (-x)^2 ~ x^2
        x^{-2} # -x^2
        1-x # x-1
        \frac{1-x}{1+x} # \frac{1+x}{1-x}
        \frac{a-b}{c} ~ -\frac{b-a}{c}
        \frac{-a}{b} ~ -\frac{a}{b}
        \frac{a}{-b} ~ -\frac ab
        \lfloor\frac{n}{2}\rfloor # \frac n2
        |x|+|y| # |x+y|
        |a-b| ~ |b-a|
        |x|y ~ y|x|
        ||x|-1| # |x|-1
        \sin x # \cos x
        \sin x # -\sin x
        \sin(-x) ~ -\sin x
        \cos(-x) ~ \cos x
        \sin^{2}x ~ (\sin x)^2
        a+bi # a-bi
        a+bi ~ bi+a
        x2 # 2x
        x ^ { 2 } ~ x^2
        \[ x \] ~ x
        \text{The answer is } 5 # 6
        -2x # 2x
        paral*lelogram # parallelogram
        1Navin # Navin
        Navi*n # Navin
        2abc ~ 2cba
        xyz+1 ~ 1+zyx
        (x+y+z)^2-x^2-y^2-z^2 ~ 2xy+2yz+2zx
        6xyz ~ 6zyx
        25\text{ N m} # 25\text{ N/m}
        2\frac{x}{3} ~ \frac{2x}{3}"""),
    ("steps, corners and what drowns", r"""
        \lceil\frac n2\rceil # \lfloor\frac n2\rfloor+1
        \lceil\frac{n+1}2\rceil ~ \lfloor\frac n2\rfloor+1
        \lfloor\frac n2\rfloor+\lceil\frac n2\rceil ~ n
        \lfloor\sqrt n\rfloor # \lceil\sqrt n\rceil-1
        \lceil x\rceil-\lfloor x\rfloor # 1
        \lfloor x+\frac12\rfloor # \lceil x-\frac12\rceil
        \lfloor\frac n{100}\rfloor # \lfloor\frac n{200}\rfloor
        \lfloor\frac n{1000}\rfloor # \lfloor\frac n{1001}\rfloor
        |x-2024| # 2024-x
        \sqrt{(x-1000)^2} # 1000-x
        |n-100|+n # 100
        \frac{(2+\sqrt3)^{2025}}2 # \frac{(2+\sqrt3)^{2025}+(2-\sqrt3)^{2025}}2
        x+e^{-500} # x
        1+e^{-5000} # 1
        \tanh(10000) # 1
        \ln x # \ln|x|
        \sqrt x # \sqrt{|x|}
        \log_2 8 ~ 3"""),
    ("one way to read it", r"""
        2^1.5 # 1
        4^0.5 # 0.5
        10^2.5 # 50
        2^0.5 ~ \sqrt2
        \cot^{-1}x # \tan x
        \sec^{-1}2 # \cos 2
        \ln^{-1}(2) # \frac1{\ln2}
        \sin^{-1}(1) ~ \frac\pi2
        \cosh^{-1}2 ~ \ln(2+\sqrt3)
        \cos\pi/3 # -\frac13
        \sin x\sqrt2 # \sin(x\sqrt2)
        \sin x e^x # \sin(xe^x)
        50,\;100 # 50100
        50,\;100 ~ 50, 100
        (1,\ 200) # (1200)
        1,\!234 ~ 1234
        \langle1,2,3,4\rangle # \langle1,3,2,4\rangle
        \langle\frac12,2\rangle ~ \langle0.5,2\rangle
        x^{-1}=25 # 25
        0.\overline35 # \frac53
        (\pm1,\mp2) # (\pm1,\pm2)
        (\mp1,\pm2) ~ (\pm1,\mp2)
        \pm1\mp\sqrt2 # \pm1\pm\sqrt2
        \pm3\mp4i # \pm3\pm4i
        2,1,\dots,n # 1,2,\dots,n
        x>1 \text{ or } x<3 # x>1 \text{ and } x<3
        x<1 \text{ or } x>3 ~ x<1 \text{ or } x>3
        x<1, x>3 ~ x<1 \text{ or } x>3
        AB\cdot CD # AC\cdot BD
        CD\cdot AB ~ AB\cdot DC
        \frac{AB}{AC} # \frac{BC}{AB}
        1,2,\ldots,n ~ 1,2,\dots,n"""),
    ("words behind a number that are no units", "\n".join(
        [rf"25\text{{ {word}}} # 25" for word in (
            "millionths", "billionths", "twentieths", "sixteenths", "twenty-firsts", "lakh", "crore", "quadrillion", "twenty",
            "thirteen", "mil", "mln", "thou", "gross", "kilo", "micro", "per mille", "doubled", "twice", "cubic", "inverse",
            "imaginary", "fewer", "greater", "minus")]
        + [rf"25\text{{ {word}}} ~ 25" for word in ("apples", "months", "square inches", "cubic feet", "ways", "students")]
        + [r"101\text{ binary} # 101", r"101\text{ in hex} # 101", r"(1,2)\text{ integers} # (1,2)", r"(A)\text{ only} # A"])),
]


@pytest.mark.parametrize("cases", [cases for _, cases in TABLES], ids=[kind for kind, _ in TABLES])
def test_pairs(reward, cases):                        # noqa: F811
    check(reward, cases)


def test_every_rewriting_rule_does_what_its_example_says():
    rules = [(before, old.sub(new, before), after) for old, new, before, after in latex.RULES]
    assert [rule for rule in rules if rule[1] != rule[2]] == []


def test_every_reported_output_that_is_decided(reward, shared_rows):     # noqa: F811
    rows = [row for row in shared_rows("reported_outputs.jsonl") if row["expected"] != "undecided"]
    verdicts = [reward.is_correct(row["output"], row["gold"]) for row in rows]
    wrong = [(row["id"], row["why"]) for row, verdict in zip(rows, verdicts) if verdict != row["expected"]]
    assert wrong == [] and len(rows) > 100


def test_a_long_answer_equals_itself_and_nothing_else(reward):           # noqa: F811
    answer = "+".join(f"{n}x^{{{n}}}" for n in range(1, 90))
    texts = (answer, answer.replace("+", " + "), answer + "+1")
    right = [reward.is_correct(rf"</think>\boxed{{{text}}}", answer) for text in texts]
    assert len(answer) > 400 and right == [True, True, False]
