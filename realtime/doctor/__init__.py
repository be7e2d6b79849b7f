"""What `bin/doctor` looks at: a deployment, from the settings to an event that goes all the way.

`checkup.CHECKS` is the list; each check is a function that returns findings. `explain` says of one
event whether one user should have received it. Nothing of the server imports this package.
"""
