// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { Math } from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Who gets how much: the arithmetic of docs/protocol.md, Money.
/// @notice Every division rounds down, so that the parts of a pot never exceed it. What is left is dust, and the
/// requester's.
library Payouts {
    uint256 internal constant BPS = 10_000;

    /// @notice The weight of a vote that says "I could not fetch it".
    uint16 internal constant ABSTAIN = type(uint16).max;

    /// @notice How far a score may be from the median and still agree, however small the median.
    uint256 internal constant MIN_TOLERANCE = 500;

    /// @notice A round's budget by role. The shares, in basis points, add up to at most 10,000.
    function split(uint256 budget, uint256 workersBps, uint256 validatorsBps, uint256 aggregatorBps)
        internal
        pure
        returns (uint256 workers, uint256 validators, uint256 aggregator)
    {
        workers = Math.mulDiv(budget, workersBps, BPS);
        validators = Math.mulDiv(budget, validatorsBps, BPS);
        aggregator = Math.mulDiv(budget, aggregatorBps, BPS);
    }

    /// @notice One accepted worker's pay: the base by locked stake (splitting oneself gains nothing), the rest by score.
    /// @param totalStake of all accepted workers that are paid.
    /// @param totalScore of the same.
    function workerPay(
        uint256 pot,
        uint256 baseBps,
        uint256 stake,
        uint256 totalStake,
        uint256 score,
        uint256 totalScore
    ) internal pure returns (uint256) {
        uint256 base = Math.mulDiv(pot, baseBps, BPS);
        return proRata(base, stake, totalStake) + proRata(pot - base, score, totalScore);
    }

    /// @notice `pot * part / whole`, rounded down; 0 when the whole is 0.
    function proRata(uint256 pot, uint256 part, uint256 whole) internal pure returns (uint256) {
        return whole == 0 ? 0 : Math.mulDiv(pot, part, whole);
    }

    /// @notice True when a vote accepts or rejects like the median, with a score within a quarter of the median's or
    /// within 500 of it. An abstention agrees with nothing.
    function agrees(uint16 weight, uint16 score, uint16 medianWeight, uint16 medianScore) internal pure returns (bool) {
        if (weight == ABSTAIN || (weight == 0) != (medianWeight == 0)) return false;
        uint256 distance = score > medianScore ? score - medianScore : medianScore - score;
        return distance <= Math.max(medianScore / 4, MIN_TOLERANCE);
    }

    /// @notice A slash: a share of the required stake, capped at what is left.
    function slashAmount(uint256 required, uint256 bps, uint256 left) internal pure returns (uint256) {
        return Math.min(Math.mulDiv(required, bps, BPS), left);
    }
}
