"""Sweet spots and parameter crossover: does taking each module from an epoch of its own beat the best single epoch?

A multi-module text model is trained once and its modules are saved on their own every other epoch. `sweetspots`
proposes an epoch for every unit from the records alone; the combination is then judged against plain baselines on data
that was used for no choice. Either answer is a result. Source: "redheart specification".
"""
