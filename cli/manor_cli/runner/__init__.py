"""The small runner behind `manor up`: it starts the services of one machine and keeps them running.

`supervise` is the process that does so, `starting` and `stopping` are what `manor up` and `down` do,
`present` says who is here and `instances` who answers. In an installation systemd does what `supervise` does.
"""
