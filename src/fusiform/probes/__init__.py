"""What to watch while an encoder trains: numbers that need no label, small tests that need some, and alarms in words.

Nothing here moves a weight or draws from a generator that training draws from; `fusiform.watching` decides when to
look. `alarms` reads only what was logged and imports no torch.
"""
