"""What is deployed: the template, the built artifact, and the function under the real runtime
client.
"""
