"""What a job is: value objects, and the texts made of them. Pure; imports no Twisted."""
