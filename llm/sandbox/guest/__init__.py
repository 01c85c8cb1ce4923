"""What runs beside and inside a sandbox: the standard library only, never imported by the process that trains.

`supervisor` makes the namespaces, starts the others and watches them; `program` is the process of the model's code,
`tester` that of the tests. Loaded by path, as a package named `guest`.
"""
