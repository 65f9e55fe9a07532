"""`poise sweep`: many runs, here or on the machines of a cluster, each an ordinary run folder that Poise goes on with.

An engine only says where a task runs and starts it again where its process or machine dies. What makes a run that was
killed end with the bits of the unbroken one is the run's own: checkpoints, locks and draws by number.
"""
