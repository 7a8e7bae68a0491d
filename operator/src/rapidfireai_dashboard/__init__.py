"""The dashboard: live curves, runs and IC Ops in the browser."""
