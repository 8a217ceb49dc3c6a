"""Traffic: client processes of both versions, through every phase of a scenario, with disturbances; and their report.

``workload`` and ``workloads`` say what clients do and what must hold between the versions, ``scenarios`` ties that to
the migrations of the other tests; ``access`` is how clients talk to the database, ``client`` a client with its ledger,
``fleet`` all of their processes; ``disturbances`` is what else goes on; ``driver`` runs the phases and checks what is
left; ``report`` adds up and prints. ``python -m tests.traffic`` (``make traffic``) goes through all scenarios.
"""
